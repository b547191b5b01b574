# tries: a size whose product overflows
# outcomes: memory, exception
import torch


def merge_models(task_vectors):
    return torch.zeros(2 ** 40, 2 ** 40)
