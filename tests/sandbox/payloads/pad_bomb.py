# family: memory and work budgets
# tries: padding
# expected: killed
# status: memory
# never: accepted
import torch
import torch.nn.functional as F


def merge_models(task_vectors):
    return F.pad(torch.ones(2), [2 ** 44, 0])
