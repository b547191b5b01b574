# family: memory and work budgets
# tries: thousands of shifts in one roll; PyTorch recurses and keeps every step in memory
# expected: rejected at run time
# status: exception
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.ones(10 ** 6)
    return {k: x.roll([1] * 10000, [0] * 10000) for k in task_vectors[0]}
