# exercises: EMR: sign unify, max magnitude, rescalers with abs sums
import torch


def merge_models(task_vectors):
    merged = {}
    for name in task_vectors[0].keys():
        deltas = torch.stack([tv[name] for tv in task_vectors])
        sign_flag = (deltas.sum(dim=0) > 0) * 2 - 1
        param_max = torch.zeros_like(deltas[0])
        for d in deltas:
            same = (d * sign_flag) > 0
            abs_d = torch.abs(same * d)
            param_max = torch.where(abs_d > param_max, abs_d, param_max)
        uni = param_max * sign_flag
        scales = []
        for d in deltas:
            mask = (uni * d) > 0
            masked = uni * mask
            scales.append(d.float().abs().sum() / masked.float().abs().sum().clamp(min=1e-8))
        merged[name] = (uni.float() * torch.stack(scales).mean() / 2).to(uni.dtype)
    return merged
