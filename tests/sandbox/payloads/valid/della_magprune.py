# exercises: DELLA: argsort of argsort ranks, linear drop probabilities, seeded bernoulli, rescaling
import torch


def rank_of(x):
    order = torch.argsort(x.abs().flatten())
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(order.numel())
    return ranks.reshape(x.shape)


def merge_models(task_vectors, p=0.4, eps=0.2, lam=0.7):
    gen = torch.Generator(device="cpu").manual_seed(1234)
    result = {}
    for name in task_vectors[0].keys():
        parts = []
        for tv in task_vectors:
            delta = tv[name].to(torch.float32)
            r = rank_of(delta).to(torch.float32) / max(delta.numel() - 1, 1)
            drop = (p + eps / 2) - eps * r
            keep = torch.bernoulli(1.0 - drop, generator=gen)
            parts.append(delta * keep / (1.0 - drop))
        stacked = torch.stack(parts, dim=0)
        sign = stacked.sum(dim=0).sign()
        agree = (stacked.sign() == sign).float()
        fused = (stacked * agree).sum(dim=0) / agree.sum(dim=0).clamp(min=1.0)
        result[name] = (lam * fused).to(task_vectors[0][name].dtype)
    return result
