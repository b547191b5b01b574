# family: memory and work budgets
# tries: the slowest function of one element, again and again
# expected: killed
# status: timeout
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.rand(10 ** 7)
    for _ in range(1000):
        x.lgamma_()
    return task_vectors[0]
