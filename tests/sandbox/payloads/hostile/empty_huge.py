# tries: uninitialised memory beyond the machine's
# outcomes: memory
import torch


def merge_models(task_vectors):
    return torch.empty([2 ** 20, 2 ** 20])
