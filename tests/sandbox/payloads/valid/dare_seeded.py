# exercises: generator, bernoulli, rand_like after manual_seed
import torch


def merge_models(task_vectors, drop=0.5):
    torch.manual_seed(3)
    g = torch.Generator()
    g.manual_seed(11)
    out = {}
    for k, ref in task_vectors[0].items():
        acc = torch.zeros(ref.shape)
        for tv in task_vectors:
            mask = torch.bernoulli(torch.full(ref.shape, 1 - drop), generator=g)
            noise = torch.rand_like(ref, dtype=torch.float32)
            acc = acc + tv[k].float() * mask / (1 - drop) + 1e-4 * noise
        out[k] = (acc / len(task_vectors)).to(ref.dtype)
    return out
