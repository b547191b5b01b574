# exercises: Weiszfeld over whole models: dict comprehensions, torch.tensor of floats, normalised weights, for-else
import torch


def flat_norm(a, b):
    total = torch.zeros(())
    for k in a:
        total = total + ((a[k] - b[k]).float() ** 2).sum()
    return total.sqrt()


def merge_models(task_vectors, steps=4, eps=1e-8):
    centre = {k: sum(tv[k] for tv in task_vectors) / len(task_vectors) for k in task_vectors[0]}
    previous = None
    for step in range(steps):
        inverse = torch.tensor([1.0 / max(flat_norm(tv, centre).item(), eps) for tv in task_vectors])
        weights = inverse / inverse.sum()
        centre = {
            k: torch.stack([w.to(tv[k].dtype) * tv[k] for w, tv in zip(weights, task_vectors)]).sum(0) for k in centre
        }
        if previous is not None and torch.allclose(previous, weights, atol=1e-7):
            break
        previous = weights
    else:
        assert previous is not None
    return centre
