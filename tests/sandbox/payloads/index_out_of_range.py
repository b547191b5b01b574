# family: poison for an accelerator
# tries: indices that would poison an accelerator
# expected: rejected at run time
# status: exception
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.ones(4)
    return x[torch.tensor([0, 10 ** 9])].sum().item()
