"""TSV-M (Task Singular Vectors, arXiv 2412.00081): low-rank task matrices, made orthogonal to each other.

    tau_i ~ U_i S_i V_i^T of rank min(rows, columns) / n;  U = [U_1 .. U_n], V = [V_1 .. V_n], S = diag(S_1 .. S_n)
    merged = SCALE * polar(U) S polar(V)^T,  polar(A) = P Q^T of the SVD A = P D Q^T

Rank: rounded down, at least 1. Matrices only; other parameters are averaged.
"""

import torch

SCALE = 1.0


def polar(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal columns (or rows)."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return torch.matmul(left, right)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        tensors = [vector[name].float() for vector in task_vectors]
        if reference.dim() != 2:
            merged[name] = torch.stack(tensors).mean(dim=0).to(reference.dtype)
            continue
        rank = max(1, min(reference.shape) // len(tensors))
        parts = [torch.linalg.svd(tensor, full_matrices=False) for tensor in tensors]
        left = polar(torch.cat([part[0][:, :rank] for part in parts], dim=1))  # (rows, n * rank)
        values = torch.cat([part[1][:rank] for part in parts])
        right = polar(torch.cat([part[2][:rank] for part in parts], dim=0))  # (n * rank, columns)
        merged[name] = (SCALE * ((left * values) @ right)).to(reference.dtype)
    return merged
