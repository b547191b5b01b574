# tries: a long range
# outcomes: memory
import torch


def merge_models(task_vectors):
    return torch.arange(0, 1, 1e-15)
