# family: memory and work budgets
# tries: the least 64-bit integer as an exponent: PyTorch negates it and never ends
# expected: rejected at run time
# status: exception
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.eye(8)
    return {k: torch.linalg.matrix_power(x, -(2 ** 62) * 2) for k in task_vectors[0]}
