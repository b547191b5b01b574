# family: memory and work budgets
# tries: an exponential whose size of entries, not its shape, makes it slow
# expected: killed
# status: timeout
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.full((500, 500), 1e30)
    return {k: torch.matrix_exp(x) for k in task_vectors[0]}
