"""Karcher mean (arXiv 2603.04972): the mean direction on the sphere, times the mean norm, per parameter.

    u <- exp_u(mean_i log_u(tau_i / norm(tau_i)))  until the step is below TOLERANCE, at most ITERATIONS times
    merged = u * mean_i norm(tau_i)

On task vectors, so the sphere's centre is the seed. Zero tensors have no direction; their norm counts.
"""

import torch

ITERATIONS = 10
TOLERANCE = 1e-5


def direction(units: list[torch.Tensor]) -> torch.Tensor:
    """The Karcher mean of unit vectors."""
    mean = torch.stack(units).mean(dim=0)
    size = torch.linalg.vector_norm(mean)
    mean = mean / size if float(size) >= TOLERANCE else units[0].clone()
    for _ in range(ITERATIONS):
        tangent = torch.zeros_like(mean)
        for unit in units:
            dot = (mean * unit).sum().clamp(-1.0, 1.0)
            angle = torch.acos(dot)
            if float(angle) >= TOLERANCE:
                tangent += angle / torch.sin(angle) * (unit - dot * mean) / len(units)
        step = torch.linalg.vector_norm(tangent)
        if float(step) < TOLERANCE:
            break
        mean = torch.cos(step) * mean + torch.sin(step) * tangent / step
        mean = mean / torch.linalg.vector_norm(mean)
    return mean


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        tensors = [vector[name].float() for vector in task_vectors]
        norms = [float(torch.linalg.vector_norm(tensor)) for tensor in tensors]
        units = [tensor / norm for tensor, norm in zip(tensors, norms, strict=True) if norm > 0]
        if units:
            merged[name] = (direction(units) * (sum(norms) / len(norms))).to(reference.dtype)
        else:
            merged[name] = torch.zeros_like(reference)
    return merged
