# tries: a decomposition that would run for hours
# outcomes: memory, timeout
import torch


def merge_models(task_vectors):
    return torch.linalg.svd(torch.ones(1).expand(10 ** 6, 10 ** 6))
