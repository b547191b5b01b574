# tries: a tensor per element
# outcomes: exception, memory, timeout
import torch


def merge_models(task_vectors):
    return [x.item() for x in torch.zeros(1).expand(2 ** 40).unbind(0)]
