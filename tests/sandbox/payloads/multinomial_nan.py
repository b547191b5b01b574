# family: poison for an accelerator
# tries: invalid probabilities that would poison an accelerator
# expected: rejected at run time
# status: exception
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.multinomial(torch.tensor([float("nan"), 1.0]), 1).item()
