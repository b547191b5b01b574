"""Iso-CTS (arXiv 2502.04959): a flat spectrum over common and task-specific directions.

    U_c: the first COMMON share of the left singular vectors of sum_i tau_i;  from tau_i - U_c U_c^T tau_i the first s
    singular directions of each source, so that all of them together are min(rows, columns) many
    merged = SCALE * mean(S) * polar([U_1 .. U_n U_c]) polar([V_1 .. V_n V_c])^T,  S: the singular values of all of them

s is (1 - COMMON) * min(rows, columns) / n, rounded to the nearest; the common directions fill up.
Matrices only; other parameters are averaged.
"""

import torch

COMMON = 0.8
SCALE = 1.0


def polar(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal columns (or rows)."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return torch.matmul(left, right)


def combine(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The merged matrix, before SCALE."""
    size = min(tensors[0].shape)
    own = round((size - int(COMMON * size)) / len(tensors))
    common = size - own * len(tensors)
    left, values, right = torch.linalg.svd(torch.stack(tensors).sum(dim=0), full_matrices=False)
    shared = left[:, :common]
    lefts, spectrum, rights = [], [], []
    for tensor in tensors:
        u, s, v = torch.linalg.svd(tensor - shared @ (shared.T @ tensor), full_matrices=False)
        lefts.append(u[:, :own])
        spectrum.append(s[:own])
        rights.append(v[:own])
    mean = torch.cat([*spectrum, values[:common]]).mean()
    return mean * (polar(torch.cat([*lefts, shared], dim=1)) @ polar(torch.cat([*rights, right[:common]], dim=0)))


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        tensors = [vector[name].float() for vector in task_vectors]
        if reference.dim() == 2:
            merged[name] = (SCALE * combine(tensors)).to(reference.dtype)
        else:
            merged[name] = torch.stack(tensors).mean(dim=0).to(reference.dtype)
    return merged
