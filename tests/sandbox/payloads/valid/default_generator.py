# exercises: draws from the default generator, seeded by the run
import torch
import torch.nn.functional as F


def merge_models(task_vectors):
    out = {}
    for k, v in task_vectors[0].items():
        noise = torch.randn(v.shape) * 0.01
        order = torch.randperm(len(task_vectors))
        pick = task_vectors[int(order[0])][k].float()
        out[k] = (F.dropout(pick, p=0.3) + noise + torch.empty(v.shape).uniform_(-0.01, 0.01)).to(v.dtype)
    return out
