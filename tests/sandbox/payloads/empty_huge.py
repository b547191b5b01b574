# family: memory and work budgets
# tries: uninitialised memory beyond the machine's
# expected: killed
# status: memory
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.empty([2 ** 20, 2 ** 20])
