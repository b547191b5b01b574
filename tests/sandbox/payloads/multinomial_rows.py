# family: memory and work budgets
# tries: samples from many rows, where the number of samples alone looks small
# expected: killed
# status: memory
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.ones(10 ** 5, 10)
    return {k: torch.multinomial(x, 10 ** 4, replacement=True) for k in task_vectors[0]}
