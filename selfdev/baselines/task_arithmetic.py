"""Task Arithmetic (arXiv 2212.04089): a weighted sum of task vectors, one weight per source."""

import torch

WEIGHTS = (0.4, 0.4, 0.4)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        total = torch.zeros_like(reference, dtype=torch.float32)
        for index, vector in enumerate(task_vectors):
            total += WEIGHTS[index] * vector[name].float()
        merged[name] = total.to(reference.dtype)
    return merged
