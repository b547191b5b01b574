"""What every evaluator demands of a merged task vector before it touches a weight. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def check_merged(seed: Mapping[str, torch.Tensor], merged: Mapping[str, torch.Tensor]) -> None:
    """Check the names, shapes, kinds and values of a merged task vector against the seed. It may leave names out.

    Raises:
        ValueError: names the first entry that does not fit. The merged model is at fault, not the run.
    """
    for name, delta in merged.items():
        if name not in seed:
            raise ValueError(f"merged task vector has {name!r}, which is no parameter of the seed")
        if delta.shape != seed[name].shape:
            expected, given = tuple(seed[name].shape), tuple(delta.shape)
            raise ValueError(f"merged {name} has shape {given}; the seed has {expected}")
        if not delta.is_floating_point():
            raise ValueError(f"merged {name} is {delta.dtype}; a floating-point tensor is needed")
    check_finite("merged", merged)


def check_finite(what: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that every value is a finite number; one synchronisation for all tensors of a device.

    Raises:
        ValueError: names the first tensor that holds NaN or an infinity.
    """
    if not tensors:
        return
    finite = [torch.isfinite(tensor).all() for tensor in tensors.values()]
    device = finite[0].device
    flags = torch.stack([flag.to(device) for flag in finite]).tolist()
    for name, good in zip(tensors, flags, strict=True):
        if not good:
            raise ValueError(f"{what} {name} holds NaN or infinite values")
