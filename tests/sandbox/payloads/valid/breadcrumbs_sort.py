# exercises: Model Breadcrumbs: both tails masked with sort and slices
import torch

BETA, GAMMA = 0.85, 0.01


def mask_tails(t):
    flat = t.abs().view(-1)
    vals, order = torch.sort(flat)
    n = flat.numel()
    lo = int(n * BETA)
    hi = n - max(1, int(n * GAMMA))
    mask = torch.zeros(n, dtype=torch.bool)
    mask[order[lo:hi]] = True
    return t * mask.view(t.shape)


def merge_models(task_vectors):
    return {
        name: 0.5 * sum(mask_tails(tv[name]) for tv in task_vectors)
        for name in task_vectors[0]
    }
