"""KnOTS with TIES (arXiv 2410.19735): sources are merged in a basis that they share.

    [tau_1 .. tau_n] = U S [V_1 .. V_n]^T;  merged = U S ties(V_1 .. V_n)^T
    ties: keep the DENSITY largest magnitudes of each V_i, SCALE * mean of those with the sign of the sum

Directions whose singular value is zero up to rounding are left out. Magnitudes tied at the threshold are all kept; the
sign is + where the sum is 0. Matrices only; other parameters go through ties themselves.
"""

import torch

DENSITY = 0.2
SCALE = 1.0


def ties(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Trim each, elect signs, average what agrees."""
    kept = []
    for tensor in tensors:
        size = tensor.abs()
        count = max(1, int(DENSITY * size.numel()))
        kept.append(torch.where(size >= size.reshape(-1).kthvalue(size.numel() - count + 1).values, tensor, 0.0))
    stack = torch.stack(kept)  # (sources, *shape)
    sign = torch.where(stack.sum(dim=0) >= 0, 1.0, -1.0)
    agrees = stack * sign > 0
    return SCALE * torch.where(agrees, stack, 0.0).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        tensors = [vector[name].float() for vector in task_vectors]
        if reference.dim() != 2:
            merged[name] = ties(tensors).to(reference.dtype)
            continue
        left, values, right = torch.linalg.svd(torch.cat(tensors, dim=1), full_matrices=False)
        rank = max(1, int((values > 1e-7 * max(right.shape) * values.max()).sum()))
        blocks = torch.split(right[:rank], reference.shape[1], dim=1)  # n of (rank, columns)
        merged[name] = ((left[:, :rank] * values[:rank]) @ ties(list(blocks))).to(reference.dtype)
    return merged
