"""One source model alone."""

import torch

SOURCE = 0


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in task_vectors[SOURCE].items()}
