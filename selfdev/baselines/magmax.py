"""MagMax (arXiv 2407.06322): of every parameter value the change of largest magnitude.

merged = SCALE * tau_i with i = argmax_i abs(tau_i), value by value; the first source wins a tie
"""

import torch

SCALE = 0.5


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        best = reference.float()
        for vector in task_vectors[1:]:
            other = vector[name].float()
            best = torch.where(other.abs() > best.abs(), other, best)
        merged[name] = (SCALE * best).to(reference.dtype)
    return merged
