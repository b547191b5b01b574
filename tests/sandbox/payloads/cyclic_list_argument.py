# family: wrong results
# tries: a list that contains itself as an argument
# expected: rejected at run time
# status: exception, crash, memory
# never: accepted
import torch


def merge_models(task_vectors):
    loop = []
    loop.append(loop)
    torch.tensor(loop)
    return dict(task_vectors[0])
