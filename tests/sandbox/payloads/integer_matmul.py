# family: memory and work budgets
# tries: products of integer matrices, which are hundreds of times slower than those of floats
# expected: killed
# status: timeout
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.ones(900, 900, dtype=torch.int64)
    for _ in range(100):
        x = x.T @ x
    return {k: x for k in task_vectors[0]}
