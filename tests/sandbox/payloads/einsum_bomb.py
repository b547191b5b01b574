# family: memory and work budgets
# tries: a contraction with a huge intermediate
# expected: killed
# status: memory, timeout
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.ones(4096)
    return torch.einsum("a,b,c,d->", x, x, x, x)
