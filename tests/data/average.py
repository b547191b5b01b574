"""The uniform average of all sources."""

import torch


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: sum(tv[name] for tv in task_vectors) / len(task_vectors) for name in task_vectors[0]}
