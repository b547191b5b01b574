"""Uniform average of some of the sources (model soups, arXiv 2203.05482, section 2): what a greedy soup is made of."""

import torch

MEMBERS = (0, 1)


def merge_models(task_vectors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name, reference in task_vectors[0].items():
        stack = torch.stack([task_vectors[index][name].float() for index in MEMBERS])
        merged[name] = stack.mean(dim=0).to(reference.dtype)
    return merged
