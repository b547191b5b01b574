# tries: a count table as long as its largest value
# outcomes: memory
import torch


def merge_models(task_vectors):
    return torch.bincount(torch.tensor([2 ** 45]))
