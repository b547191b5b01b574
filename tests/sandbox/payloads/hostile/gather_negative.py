# tries: negative indices
# outcomes: exception
import torch


def merge_models(task_vectors):
    return torch.gather(torch.ones(4), 0, torch.tensor([-10 ** 9])).item()
