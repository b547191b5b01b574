# exercises: greedy selection by a proxy score, list pop, continue, f-string formatting of tensors, sum with start
import torch


def mean_of(models, key):
    return sum((m[key] for m in models), start=torch.zeros_like(models[0][key])) / len(models)


def proxy(models, keys):
    total = 0.0
    for key in keys:
        mean = mean_of(models, key).float()
        total += (mean.norm() / (1e-9 + sum(m[key].float().norm() for m in models))).item()
    return total / len(keys)


def merge_models(task_vectors):
    keys = [k for k in task_vectors[0] if "embed" not in k]
    pool = sorted(range(len(task_vectors)), key=lambda i: -proxy([task_vectors[i]], keys))
    soup = [task_vectors[pool.pop(0)]]
    notes = []
    while pool:
        candidate = task_vectors[pool.pop()]
        before, after = proxy(soup, keys), proxy(soup + [candidate], keys)
        notes.append(f"{before:.4f} -> {after:.4f} ({torch.tensor(after - before):+.2e})")
        if after < 0.6 * before:
            continue
        soup.append(candidate)
    assert len(notes) == len(task_vectors) - 1 and all("->" in n for n in notes)
    return {k: mean_of(soup, k) for k in task_vectors[0]}
