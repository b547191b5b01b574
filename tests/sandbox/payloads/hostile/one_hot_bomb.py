# tries: one-hot with a huge class
# outcomes: memory
import torch
import torch.nn.functional as F


def merge_models(task_vectors):
    return F.one_hot(torch.tensor([2 ** 45]))
