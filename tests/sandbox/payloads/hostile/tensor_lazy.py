# tries: one allocation that is granted lazily
# outcomes: memory
import torch


def merge_models(task_vectors):
    return torch.zeros(2 ** 40)
