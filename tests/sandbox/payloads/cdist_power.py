# family: memory and work budgets
# tries: a power per pair and feature in one operation that cannot be stopped
# expected: killed
# status: timeout
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.rand(2000, 1000)
    return {k: torch.cdist(x, x, p=1.5) for k in task_vectors[0]}
