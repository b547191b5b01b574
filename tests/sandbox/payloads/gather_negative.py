# family: poison for an accelerator
# tries: negative indices
# expected: rejected at run time
# status: exception
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.gather(torch.ones(4), 0, torch.tensor([-10 ** 9])).item()
