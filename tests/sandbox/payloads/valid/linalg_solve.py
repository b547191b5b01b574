# exercises: RegMean-like solve with gram matrices, pinv and eye
import torch


def merge_models(task_vectors):
    out = {}
    for k, ref in task_vectors[0].items():
        xs = [tv[k].float() for tv in task_vectors]
        if ref.dim() == 2:
            d = ref.size(1)
            grams = [x.T @ x + 1e-3 * torch.eye(d) for x in xs]
            lhs = torch.stack(grams).sum(0)
            rhs = sum(g @ x.mT for g, x in zip(grams, xs))
            y = torch.linalg.solve(lhs, rhs).T
            z = (torch.linalg.pinv(lhs) @ rhs).transpose(-1, -2)
            inv = torch.linalg.inv(lhs)
            y = 0.5 * y + 0.25 * z + 0.25 * (inv @ rhs).t()
        else:
            y = torch.stack(xs).mean(0)
        out[k] = y.contiguous().to(ref.dtype)
    return out
