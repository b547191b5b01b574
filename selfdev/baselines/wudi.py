"""WUDI-Merging (arXiv 2503.08099): Adam on the interference of the merged matrix with each source.

    minimise sum_i norm((x - tau_i) tau_i^T)^2 / norm(tau_i)^2,  from x = sum_i tau_i, STEPS steps of Adam at rate LR
    gradient: 2 sum_i (x - tau_i) tau_i^T tau_i / norm(tau_i)^2

Matrices of one shape are optimised side by side, up to BATCH values at a time. Matrices only; other parameters are
averaged. Costs 2 * STEPS * rows * columns^2 floating-point operations per matrix, more than any other method here.
"""

import math

import torch

LR = 1e-5
STEPS = 300
BATCH = 100_000_000


def optimise(sources: torch.Tensor) -> torch.Tensor:
    """(sources, matrices, rows, columns) -> (matrices, rows, columns)."""
    energy = sources.square().sum(dim=(2, 3), keepdim=True)
    pull = 2.0 * (sources.transpose(2, 3) @ sources) / torch.where(energy > 0, energy, 1.0)
    push, pull = (sources @ pull).sum(dim=0), pull.sum(dim=0)  # gradient: x @ pull - push
    x = sources.sum(dim=0)
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, STEPS + 1):
        gradient = x @ pull - push
        mean.lerp_(gradient, 0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        below = square.sqrt().div_(math.sqrt(1.0 - 0.999**step)).add_(1e-8)
        x.addcdiv_(mean, below, value=-LR / (1.0 - 0.9**step))
    return x


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {name: torch.zeros_like(tensor) for name, tensor in task_vectors[0].items()}
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, reference in task_vectors[0].items():
        if reference.dim() == 2:
            shapes.setdefault(tuple(reference.shape), []).append(name)
        else:
            stack = torch.stack([vector[name].float() for vector in task_vectors])
            merged[name] = stack.mean(dim=0).to(reference.dtype)
    for (rows, columns), names in shapes.items():
        size = max(1, BATCH // (rows * columns))
        for start in range(0, len(names), size):
            some = names[start : start + size]
            matrices = torch.stack([torch.stack([vector[name].float() for name in some]) for vector in task_vectors])
            for name, matrix in zip(some, optimise(matrices), strict=True):
                merged[name] = matrix.to(merged[name].dtype)
    return merged
