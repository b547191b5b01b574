# tries: a shape of a million ones
# outcomes: exception, timeout
import torch


def merge_models(task_vectors):
    return torch.ones(1).reshape([1] * 100000).sum().item()
