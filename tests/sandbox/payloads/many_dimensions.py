# family: memory and work budgets
# tries: a shape of a million ones
# expected: rejected at run time
# also acceptable: killed
# status: exception, timeout
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.ones(1).reshape([1] * 100000).sum().item()
