# family: input and output
# tries: leave a file behind
# expected: rejected at compile
# status: violation
# never: /tmp/selfdev-payload/canary exists
import torch


def merge_models(task_vectors):
    torch.save(task_vectors, "/tmp/selfdev-payload/canary")
    return dict(task_vectors[0])
