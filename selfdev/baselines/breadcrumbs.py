"""Model Breadcrumbs (arXiv 2312.06795): drop both tails of each parameter's magnitudes, then add.

    merged = SCALE * sum_i m_i * tau_i,  m_i drops the GAMMA largest and the smallest, DENSITY of the values remain

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
        total = torch.zeros_like(reference, dtype=torch.float32)
        for vector in task_vectors:
            total += SCALE * middle(vector[name].float())
        merged[name] = total.to(reference.dtype)
    return merged
