# tries: an outer product
# outcomes: memory
import torch


def merge_models(task_vectors):
    x = torch.ones(10 ** 6)
    return torch.outer(x, x)
