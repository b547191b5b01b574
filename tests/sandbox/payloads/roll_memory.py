# family: memory and work budgets
# tries: as many shifts as are taken, of a tensor that fits once
# expected: killed
# status: memory
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.ones(10 ** 6)
    return {k: x.roll([1] * 100, [0] * 100) for k in task_vectors[0]}
