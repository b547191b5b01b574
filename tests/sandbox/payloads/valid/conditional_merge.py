# exercises: data-dependent control flow, while, any/all, generators with yield, walrus
import torch
import torch.nn.functional as F


def pairs(items):
    for i, a in enumerate(items):
        for b in items[i + 1:]:
            yield a, b


def merge_models(task_vectors):
    out = {}
    for k in task_vectors[0]:
        flats = [tv[k].float().flatten() for tv in task_vectors]
        sims = [F.cosine_similarity(a, b, dim=0) for a, b in pairs(flats)]
        scale, steps = 1.0, 0
        while (steps := steps + 1) < 5 and any(s > 0.2 * scale for s in sims):
            scale *= 0.5
        if all(s.abs() < 0.9 for s in sims):
            merged = torch.stack(flats).median(dim=0).values * scale
        else:
            merged = torch.stack(flats).mean(dim=0)
        out[k] = merged.view_as(task_vectors[0][k]).to(task_vectors[0][k].dtype)
    return out
