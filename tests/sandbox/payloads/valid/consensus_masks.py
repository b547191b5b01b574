# exercises: boolean logic of masks, ~ & | ^, sum of bools, masked_select, torch.any/all, where with three forms
import torch


def merge_models(task_vectors):
    out = {}
    for k, ref in task_vectors[0].items():
        stack = torch.stack([tv[k] for tv in task_vectors])
        positive, negative = stack > 0, stack < 0
        votes = positive.sum(dim=0) - negative.sum(dim=0)
        unanimous = positive.all(dim=0) | negative.all(dim=0)
        contested = ~unanimous & (votes == 0)
        odd = torch.logical_xor(positive[0], negative[-1])
        mean = stack.mean(dim=0)
        out[k] = torch.where(unanimous, mean * 1.5, torch.where(contested, 0.0, mean))
        out[k] = out[k].masked_fill(odd & contested, 0.001)
        if unanimous.any():
            extreme = torch.masked_select(mean, unanimous).abs().max()
            out[k] = out[k].clamp(min=-extreme * 2, max=extreme * 2)
        rows, = torch.where(odd.flatten()[:8])
        out[k].view(-1)[rows] *= 0.5
    return out
