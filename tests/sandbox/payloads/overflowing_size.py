# family: memory and work budgets
# tries: a size whose product overflows
# expected: killed
# also acceptable: rejected at run time
# status: memory, exception
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.zeros(2 ** 40, 2 ** 40)
