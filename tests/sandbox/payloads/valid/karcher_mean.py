# exercises: Karcher mean on the sphere: acos, sin, norms, iteration with break on .item(), math, min/max of floats
import math

import torch


def log_map(base, x):
    c = torch.clamp(torch.dot(base, x), -1.0, 1.0)
    theta = torch.acos(c)
    if theta.item() < 1e-6:
        return torch.zeros_like(x)
    return (x - c * base) * (theta / torch.sin(theta))


def exp_map(base, v):
    n = v.norm()
    if float(n) < 1e-9:
        return base
    return math.cos(float(n)) * base + math.sin(float(n)) * v / n


def merge_models(task_vectors):
    merged = dict()
    for name, first in task_vectors[0].items():
        flats = [tv[name].double().reshape(-1) for tv in task_vectors]
        norms = [f.norm().item() for f in flats]
        units = [f / max(n, 1e-12) for f, n in zip(flats, norms)]
        mean = sum(units) / len(units)
        mean = mean / mean.norm().clamp_min(1e-12)
        step, it = 1.0, 0
        while step > 1e-7 and it < 3:
            v = sum(log_map(mean, u) for u in units) / len(units)
            mean = exp_map(mean, v)
            step = v.norm().item()
            it += 1
        merged[name] = (mean * (sum(norms) / len(norms))).reshape(first.shape).to(first.dtype)
    return merged
