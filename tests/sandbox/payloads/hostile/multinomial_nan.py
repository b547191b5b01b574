# tries: invalid probabilities that would poison an accelerator
# outcomes: exception
import torch


def merge_models(task_vectors):
    return torch.multinomial(torch.tensor([float("nan"), 1.0]), 1).item()
