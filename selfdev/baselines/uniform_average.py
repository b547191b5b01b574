"""Uniform average of the source models (model soups, arXiv 2203.05482), in task-vector form: the mean of all."""

import torch


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        stack = torch.stack([vector[name].float() for vector in task_vectors])
        merged[name] = stack.mean(dim=0).to(reference.dtype)
    return merged
