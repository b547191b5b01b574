# family: memory and work budgets
# tries: a long range
# expected: killed
# status: memory
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.arange(0, 1, 1e-15)
