# family: state
# tries: look for the bytes of others in uninitialised memory
# expected: harmless
# status: ok
import torch


def merge_models(task_vectors):
    return {k: v + torch.empty_like(v) + torch.empty(v.shape).to(v.dtype) for k, v in task_vectors[0].items()}
