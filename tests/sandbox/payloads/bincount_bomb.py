# family: memory and work budgets
# tries: a count table as long as its largest value
# expected: killed
# status: memory
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.bincount(torch.tensor([2 ** 45]))
