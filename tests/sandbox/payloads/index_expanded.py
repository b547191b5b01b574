# family: memory and work budgets
# tries: an index of 2**50 elements that take no memory
# expected: killed
# status: timeout, memory
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.ones(4)[torch.zeros(1, dtype=torch.long).expand(2 ** 50)]
