# exercises: eigh of the Gram matrix, sign fixing, argmax
import torch


def merge_models(task_vectors):
    out = {}
    for k, ref in task_vectors[0].items():
        X = torch.stack([tv[k].flatten() for tv in task_vectors]).double()
        G = X @ X.T
        evals, evecs = torch.linalg.eigh(G)
        top = evecs[:, -1]
        if top[top.abs().argmax()] < 0:
            top = -top
        w = top / top.sum().clamp(min=0.5)
        out[k] = (w @ X).reshape(ref.shape).to(ref.dtype)
    return out
