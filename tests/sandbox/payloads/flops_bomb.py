# family: memory and work budgets
# tries: a decomposition that would run for hours
# expected: killed
# status: memory, timeout
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.linalg.svd(torch.ones(1).expand(10 ** 6, 10 ** 6))
