# family: memory and work budgets
# tries: very many decompositions of very small matrices
# expected: killed
# status: timeout
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.rand(10 ** 5, 4, 4)
    for _ in range(1000):
        torch.linalg.svd(x)
    return task_vectors[0]
