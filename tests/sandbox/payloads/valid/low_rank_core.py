# exercises: shared subspace: cat, svd of the concatenation, slices, matmul chains, broadcasting a diagonal
import torch


def truncated(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank], S[:rank], Vh[:rank, :]


def merge_models(task_vectors, fraction=0.5):
    new = {}
    for name, ref in task_vectors[0].items():
        mats = [tv[name].float() for tv in task_vectors]
        if ref.dim() != 2 or min(ref.shape) < 2:
            new[name] = torch.stack(mats).mean(0).to(ref.dtype)
            continue
        k = max(1, int(min(ref.shape) * fraction) // len(mats))
        pieces = [truncated(m, k) for m in mats]
        U = torch.cat([p[0] for p in pieces], dim=1)
        S = torch.cat([p[1] for p in pieces])
        V = torch.cat([p[2] for p in pieces], dim=0)
        P, _, Qh = torch.linalg.svd(U, full_matrices=False)
        R, _, Th = torch.linalg.svd(V, full_matrices=False)
        core = (P @ Qh) * S.unsqueeze(0) @ (R @ Th)
        new[name] = (core / len(mats)).to(dtype=ref.dtype)
    return new
