"""WIDEN (arXiv 2408.03092) on task vectors alone: columns weighted by how much each source changed them.

    d_ij = norm(tau_i[:, j]);  r_ij = rank of d_ij in source i, scaled to 0 .. 1
    s_ij = softmax over i of r_ij, and CALIBRATION where r_ij > RATIO * mean_j r_ij;  merged = sum_i s_ij tau_i[:, j]

The paper ranks the change of a column's magnitude and of its direction apart and averages the two scores. Both need
the seed's weights, which a merge of task vectors does not see; their combination does not: with w the seed's column,
norm(tau)^2 = (norm(w + tau) - norm(w))^2 + 2 norm(w + tau) norm(w) (1 - cos). In vectors each value is a column.
Equal changes rank in their order.
"""

import torch

RATIO = 1.0
CALIBRATION = 1.0


def ranks(tensor: torch.Tensor) -> torch.Tensor:
    """(columns,) ranks of the columns' norms, 0 .. 1."""
    size = torch.linalg.vector_norm(tensor.reshape(-1, tensor.shape[-1]), dim=0)
    order = size.argsort(stable=True)
    made = torch.empty_like(size)
    made[order] = torch.arange(len(size), dtype=torch.float32, device=size.device)
    return made / max(1, len(size) - 1)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        tensors = [vector[name].float() for vector in task_vectors]
        rank = torch.stack([ranks(tensor) for tensor in tensors])  # (sources, columns)
        important = rank > RATIO * rank.mean(dim=1, keepdim=True)
        score = torch.where(important, CALIBRATION, torch.softmax(rank, dim=0))
        total = torch.zeros_like(tensors[0])
        for tensor, weight in zip(tensors, score, strict=True):
            total += weight * tensor
        merged[name] = total.to(reference.dtype)
    return merged
