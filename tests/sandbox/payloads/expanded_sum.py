# family: memory and work budgets
# tries: reduce 2**50 elements that take no memory
# expected: killed
# status: timeout
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.zeros(1).expand(2 ** 50).sum()
