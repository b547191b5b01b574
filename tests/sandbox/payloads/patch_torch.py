# family: introspection
# tries: replace a function of torch
# expected: rejected at compile
# status: violation
# never: accepted
import torch


def merge_models(task_vectors):
    torch.isfinite = lambda x: True
    return dict(task_vectors[0])
