# exercises: math, trigonometry, .item(), ternaries, early return in a helper
import math
import torch


def slerp(a, b, t, eps=1e-7):
    fa, fb = a.float().flatten(), b.float().flatten()
    na, nb = torch.linalg.norm(fa), torch.linalg.norm(fb)
    if na < eps or nb < eps:
        return (1 - t) * a + t * b
    cos = torch.clamp(torch.dot(fa / na, fb / nb), -1.0, 1.0).item()
    if abs(cos) > 0.9995:
        return (1 - t) * a + t * b
    omega = math.acos(cos)
    so = math.sin(omega)
    mixed = math.sin((1 - t) * omega) / so * fa + math.sin(t * omega) / so * fb
    return mixed.view(a.shape).to(a.dtype)


def merge_models(task_vectors):
    out = dict(task_vectors[0])
    for i, tv in enumerate(task_vectors[1:], 2):
        for k in out:
            out[k] = slerp(out[k], tv[k], 1.0 / i)
    return out
