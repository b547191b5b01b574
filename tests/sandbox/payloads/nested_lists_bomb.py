# family: memory and work budgets
# tries: lists nested exponentially, sent as one literal
# expected: killed
# also acceptable: rejected at run time
# status: timeout, memory, exception, crash
# never: accepted
import torch


def merge_models(task_vectors):
    x = [1.0] * 10
    for _ in range(12):
        x = [x] * 10
    torch.tensor(x)
    return dict(task_vectors[0])
