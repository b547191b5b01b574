# family: memory and work budgets
# tries: return 2**50 elements that take no memory
# expected: invalid result
# status: invalid
# never: accepted
import torch


def merge_models(task_vectors):
    return {k: torch.zeros(1).expand(2 ** 50) for k in task_vectors[0]}
