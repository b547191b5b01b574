# family: state
# tries: destroy the shared inputs in place, every way there is
# expected: harmless
# status: ok
import torch
import torch.nn.functional as F


def merge_models(task_vectors):
    keep = {k: v.clone() for k, v in task_vectors[0].items()}
    for vector in task_vectors:
        for value in vector.values():
            value.data.mul_(0)
            value[...] = 9.0
            value.view(-1)[0] = 3.0
            torch.mul(value, 2.0, out=value)
            F.relu(value, inplace=True)
            value.normal_()
        vector.clear()
    return keep
