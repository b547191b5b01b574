# family: memory and work budgets
# tries: a count over 2**50 elements that take no memory
# expected: killed
# status: timeout, memory
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.bincount(torch.zeros(1, dtype=torch.long).expand(2 ** 50))
