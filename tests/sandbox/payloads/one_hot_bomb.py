# family: memory and work budgets
# tries: one-hot with a huge class
# expected: killed
# status: memory
# never: accepted
import torch
import torch.nn.functional as F


def merge_models(task_vectors):
    return F.one_hot(torch.tensor([2 ** 45]))
