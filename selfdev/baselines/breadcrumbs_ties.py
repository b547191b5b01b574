"""Model Breadcrumbs (arXiv 2312.06795) with the sign vote of TIES (2306.01708): mergekit's combination.

    tau_i <- m_i * tau_i,  m_i drops the GAMMA largest and the smallest, DENSITY of the values remain
    merged = SCALE * sum of the tau_i that have the sign of sum_i tau_i (+ where the sum is 0)

Both limits are per parameter, in the paper and in mergekit. Counts are rounded down, but one value always stays; where
GAMMA + DENSITY > 1 the outliers' share shrinks. Magnitudes tied at either limit are all kept.
"""

import torch

DENSITY = 0.9
GAMMA = 0.01
SCALE = 0.5


def middle(tensor: torch.Tensor) -> torch.Tensor:
    """Zero the GAMMA largest magnitudes and the smallest, so that DENSITY of the values remain."""
    count = tensor.numel()
    target = max(1, int(DENSITY * count))
    top = min(int(GAMMA * count), count - target)
    size = tensor.abs()
    upper = size.reshape(-1).kthvalue(count - top).values
    lower = size.reshape(-1).kthvalue(count - top - target + 1).values
    inside = (size <= upper) & (size >= lower)
    return torch.where(inside, tensor, 0.0)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        stack = torch.stack([middle(vector[name].float()) for vector in task_vectors])  # (sources, *shape)
        sign = torch.where(stack.sum(dim=0) >= 0, 1.0, -1.0)
        merged[name] = (SCALE * torch.where(stack * sign > 0, stack, 0.0).sum(dim=0)).to(reference.dtype)
    return merged
