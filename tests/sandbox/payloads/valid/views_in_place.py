# exercises: unsqueeze_, squeeze_, t_, transpose_, index_put_, is_contiguous, stride
import torch


def merge_models(task_vectors):
    out = {}
    for k, v in task_vectors[0].items():
        x = torch.stack([tv[k] for tv in task_vectors]).mean(0)
        y = x.clone()
        y.unsqueeze_(0)
        assert y.shape[0] == 1 and y.dim() == x.dim() + 1
        y.squeeze_(0)
        if y.dim() == 2:
            y.t_()
            y = y if y.is_contiguous() else y.contiguous()
            flat = y.view(-1)
            assert y.T.stride() == (1, y.stride(0)) and not x.T.is_contiguous()
            flat[::7] *= 0.5
            y = y.T.contiguous()
        y.index_put_((torch.tensor([0, 1]),), torch.tensor(0.01, dtype=y.dtype))
        out[k] = y
    return out
