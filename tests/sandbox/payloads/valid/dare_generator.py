# exercises: DARE with torch.Generator, bernoulli, per-parameter seeds from enumerate
import torch


@torch.no_grad()
def merge_models(task_vectors):
    p = 0.5
    out = {}
    for i, key in enumerate(sorted(task_vectors[0].keys())):
        acc = None
        for j, tv in enumerate(task_vectors):
            g = torch.Generator(device="cpu")
            g.manual_seed(1000 * i + j)
            delta = tv[key].to(torch.float32)
            keep = torch.bernoulli(torch.full_like(delta, 1 - p), generator=g)
            contrib = delta * keep / (1 - p)
            acc = contrib if acc is None else acc + contrib
        out[key] = (acc / len(task_vectors)).to(dtype=task_vectors[0][key].dtype)
    return out
