# exercises: torch.svd_lowrank, pca_lowrank, special functions
import torch


def merge_models(task_vectors):
    torch.manual_seed(3)
    out = {}
    for k, ref in task_vectors[0].items():
        y = sum(tv[k].float() for tv in task_vectors) / len(task_vectors)
        if y.dim() == 2:
            U, S, V = torch.svd_lowrank(y, q=8, niter=2)
            y = U @ torch.diag(S) @ V.T
            u, s, v = torch.pca_lowrank(y.T, q=4)
            y = y - 0.1 * ((u * s) @ v.mT).T
        y = y * torch.special.expit(y.abs() * 10)
        torch.neg_(y)
        out[k] = torch.special.log1p(y.abs()).mul(y.sign()).to(ref.dtype)
    return out
