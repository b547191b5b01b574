# family: input and output
# tries: read beyond a tensor's memory
# expected: rejected at compile
# status: violation
# never: accepted
import torch


def merge_models(task_vectors):
    return {k: torch.as_strided(v, v.shape, v.stride(), 10**6) for k, v in task_vectors[0].items()}
