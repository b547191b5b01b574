# family: memory and work budgets
# tries: one allocation that is granted lazily
# expected: killed
# status: memory
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.zeros(2 ** 40)
