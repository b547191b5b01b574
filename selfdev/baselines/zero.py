"""The seed model itself: nothing is added."""

import torch


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in task_vectors[0].items()}
