# family: memory and work budgets
# tries: a tensor per element
# expected: rejected at run time
# also acceptable: killed
# status: exception, memory, timeout
# never: accepted
import torch


def merge_models(task_vectors):
    return [x.item() for x in torch.zeros(1).expand(2 ** 40).unbind(0)]
