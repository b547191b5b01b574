# family: memory and work budgets
# tries: an outer product
# expected: killed
# status: memory
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.ones(10 ** 6)
    return torch.outer(x, x)
