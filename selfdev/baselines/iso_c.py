"""Iso-C (arXiv 2502.04959): the sum of task matrices with a flat spectrum.

    sum_i tau_i = U S V^T;  merged = SCALE * mean(S) * U V^T

Singular values that are zero up to rounding stay zero and do not count in the mean: their vectors are arbitrary.
Matrices only; other parameters are averaged.
"""

import torch

SCALE = 1.0


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        total = torch.stack([vector[name].float() for vector in task_vectors]).sum(dim=0)
        if reference.dim() != 2:
            merged[name] = (total / len(task_vectors)).to(reference.dtype)
            continue
        left, values, right = torch.linalg.svd(total, full_matrices=False)
        real = values > 1e-7 * max(reference.shape) * values.max()
        flat = torch.where(real, values.sum() / real.sum().clamp(min=1), 0.0)
        merged[name] = (SCALE * ((left * flat) @ right)).to(reference.dtype)
    return merged
