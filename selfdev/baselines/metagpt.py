"""MetaGPT (arXiv 2406.11385): weights from the norms of the whole task vectors.

merged = sum_i w_i tau_i,  w_i = norm(tau_i)^2 / sum_j norm(tau_j)^2
"""

import torch


def energy(vector: dict[str, torch.Tensor]) -> float:
    """The squared norm of a task vector."""
    return sum(float(tensor.float().square().sum()) for tensor in vector.values())


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    energies = [energy(vector) for vector in task_vectors]
    weights = [each / sum(energies) if sum(energies) > 0 else 0.0 for each in energies]
    merged = {}
    for name, reference in task_vectors[0].items():
        total = torch.zeros_like(reference, dtype=torch.float32)
        for weight, vector in zip(weights, task_vectors, strict=True):
            total += weight * vector[name].float()
        merged[name] = total.to(reference.dtype)
    return merged
