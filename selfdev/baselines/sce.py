"""SCE (FuseChat, arXiv 2408.07990): select, calculate, erase, per parameter.

    select:    the TOPK share (of positions that vary, rounded down) with the largest variance over the sources
    calculate: w_i = sum(tau_i^2) / sum_j sum(tau_j^2), over what was selected
    erase:     tau_i with the sign of sum_j tau_j only (+ where the sum is 0); merged = sum_i w_i tau_i / sum_i w_i

Variances tied at the threshold are all kept. TOPK 1 selects everything, also where the sources are equal; one source
has no variance and needs it.
"""

import torch

TOPK = 0.1


def selected(stack: torch.Tensor) -> torch.Tensor:
    """Zero the positions, the same in all sources, where the variance is small."""
    variance = torch.var(stack, dim=0, correction=0)
    count = int(TOPK * int((variance != 0).sum()))
    if count == 0:
        return torch.zeros_like(stack)
    limit = variance.reshape(-1).kthvalue(variance.numel() - count + 1).values
    return torch.where(variance >= limit, stack, 0.0)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        stack = torch.stack([vector[name].float() for vector in task_vectors])  # (sources, *shape)
        if TOPK < 1.0:
            stack = selected(stack)
        energy = (stack * stack).reshape(len(task_vectors), -1).sum(dim=1)
        weights = energy / energy.sum() if float(energy.sum()) > 0 else torch.full_like(energy, 1.0 / len(task_vectors))
        sign = torch.where(stack.sum(dim=0) >= 0, 1.0, -1.0)
        shares = torch.where(stack * sign > 0, weights.reshape([-1] + [1] * reference.dim()), 0.0)
        below = shares.sum(dim=0)
        total = (shares * stack).sum(dim=0)
        merged[name] = torch.where(below > 0, total / torch.where(below > 0, below, 1.0), 0.0).to(reference.dtype)
    return merged
