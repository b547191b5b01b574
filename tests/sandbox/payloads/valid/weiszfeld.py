# exercises: geometric median by Weiszfeld with a while loop and convergence by item
import torch


def weiszfeld(points, iters=20, tol=1e-6):
    mu = points.mean(dim=0)
    it = 0
    while it < iters:
        dist = torch.linalg.vector_norm(points - mu, dim=1).clamp_min(1e-10)
        w = 1.0 / dist
        new = (w[:, None] * points).sum(0) / w.sum()
        if torch.norm(new - mu).item() < tol:
            break
        mu = new
        it += 1
    else:
        mu = mu * 1.0
    return mu


def merge_models(task_vectors):
    out = {}
    for k, ref in task_vectors[0].items():
        pts = torch.stack([tv[k].flatten().float() for tv in task_vectors])
        out[k] = weiszfeld(pts).view(ref.shape).to(ref.dtype)
    return out
