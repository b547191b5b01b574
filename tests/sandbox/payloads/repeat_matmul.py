# family: memory and work budgets
# tries: work without end in few operations
# expected: killed
# status: timeout, memory
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.ones(3000, 3000)
    for _ in range(10 ** 6):
        x = x @ x
    return x
