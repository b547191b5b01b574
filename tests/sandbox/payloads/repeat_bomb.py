# family: memory and work budgets
# tries: repeats from a tensor
# expected: killed
# status: memory
# never: accepted
import torch


def merge_models(task_vectors):
    return torch.ones(4).repeat_interleave(torch.tensor([2 ** 44] * 4))
