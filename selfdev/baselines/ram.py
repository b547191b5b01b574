"""RAM (arXiv 2601.13572): values that one source changed are added, values that several changed are averaged.

changed_i = abs(tau_i) > EPSILON; n = sum_i changed_i; merged = sum_i changed_i * tau_i / max(n, 1)
"""

import torch

EPSILON = 1e-5


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        stack = torch.stack([vector[name].float() for vector in task_vectors])  # (sources, *shape)
        changed = stack.abs() > EPSILON
        total = torch.where(changed, stack, 0.0).sum(dim=0)
        merged[name] = (total / changed.sum(dim=0).clamp(min=1)).to(reference.dtype)
    return merged
