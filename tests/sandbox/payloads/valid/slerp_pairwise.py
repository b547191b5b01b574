# exercises: SLERP with math and tensor scalars, functools.reduce
import math
from functools import reduce

import torch


def slerp(t, a, b, eps=1e-8):
    af, bf = a.flatten().float(), b.flatten().float()
    na, nb = af.norm(), bf.norm()
    dot = torch.dot(af / (na + eps), bf / (nb + eps)).clamp(-1.0, 1.0)
    if torch.abs(dot) > 0.9995:
        return torch.lerp(a, b, t)
    theta = torch.acos(dot)
    sin = torch.sin(theta)
    w0 = torch.sin((1 - t) * theta) / sin
    w1 = torch.sin(t * theta) / sin
    return (w0 * af + w1 * bf).reshape(a.shape).to(a.dtype)


def merge_models(task_vectors):
    merged = {}
    for k in task_vectors[0]:
        pairs = list(enumerate(tv[k] for tv in task_vectors))
        merged[k] = reduce(lambda acc, p: slerp(1.0 / (p[0] + 1), acc, p[1]), pairs[1:], pairs[0][1])
        assert math.isfinite(merged[k].float().sum().item())
    return merged
