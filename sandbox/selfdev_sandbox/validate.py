"""The result of a program: accepted only if it has the inputs' names, shapes and dtypes, is finite, and is not huge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch


class Invalid(Exception):
    """Why a result is not accepted."""


def global_norm(tensors: Sequence[torch.Tensor]) -> float:
    """L2 norm over all elements, in float32 or wider; NaN or inf where there are any."""
    if not tensors:
        return 0.0
    norms = [
        torch.linalg.vector_norm(t, dtype=torch.float32 if t.element_size() < 8 else torch.float64) for t in tensors
    ]
    return float(torch.linalg.vector_norm(torch.stack([n.double() for n in norms])))


def check(
    names: Sequence[str], values: Sequence[torch.Tensor], expected: Mapping[str, torch.Tensor], largest_norm: float
) -> dict[str, torch.Tensor]:
    """Return the result in the order of the inputs, or raise `Invalid`. Shapes come before any arithmetic.

    Args:
        names, values: what the program returned.
        expected: an input, for names, shapes and dtypes.
        largest_norm: allowed L2 norm of the whole result.
    """
    result = dict(zip(names, values, strict=True))
    missing = [name for name in expected if name not in result]
    extra = [name for name in result if name not in expected]
    if missing or extra or len(result) != len(names):
        first = f"'{missing[0]}' is missing" if missing else f"'{extra[0]}' is not a parameter" if extra else "repeated"
        raise Invalid(f"wrong names in the result: {first} ({len(missing)} missing, {len(extra)} extra)")
    for name, reference in expected.items():
        if result[name].shape != reference.shape:
            raise Invalid(f"'{name}' has shape {list(result[name].shape)[:8]}; {list(reference.shape)} is expected")
        if result[name].dtype != reference.dtype:
            raise Invalid(f"'{name}' has dtype {result[name].dtype}; {reference.dtype} is expected")
    norm = global_norm([result[name] for name in expected])
    if not math.isfinite(norm):
        bad = next((n for n in expected if not bool(torch.isfinite(result[n]).all())), None)
        raise Invalid(f"'{bad}' has NaN or infinite values" if bad else "the norm of the result overflows")
    if norm > largest_norm:
        raise Invalid(f"the norm of the result is {norm:.4g}; at most {largest_norm:.4g} is allowed")
    return {name: result[name] for name in expected}


def own_copies(result: Mapping[str, torch.Tensor], shared: set[int]) -> dict[str, torch.Tensor]:
    """Tensors with storage of their own: copied where they share with others, with `shared` addresses, or are views."""
    seen = set(shared)
    out = {}
    for name, tensor in result.items():
        storage = tensor.untyped_storage()
        own = storage.data_ptr() not in seen and storage.nbytes() == tensor.numel() * tensor.element_size()
        out[name] = tensor if own and tensor.is_contiguous() else tensor.contiguous().clone()
        seen.add(storage.data_ptr())
    return out


def same_bits(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two results agree in names, shapes, dtypes and every bit (0.0 and -0.0 differ)."""
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and torch.equal(_bits(a[n]), _bits(b[n])) for n in a
    )


def checksums(result: Mapping[str, torch.Tensor]) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    """Name, dtype, shape and two sums over the bits of each tensor, on its device; 0.0 and -0.0 differ.

    The sums wrap at 64 bits: one of the elements' bits as integers, one of the same weighted by odd numbers that grow
    with the position, so that neither a changed element nor two exchanged ones go unseen.
    """
    return [(name, str(t.dtype), tuple(t.shape), *_sums(t)) for name, t in result.items()]


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 20


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(_INTEGERS[tensor.element_size()])


def _sums(tensor: torch.Tensor) -> tuple[int, int]:
    flat = _bits(tensor)
    plain = torch.zeros((), dtype=torch.int64, device=flat.device)
    weighted = plain.clone()
    odd = torch.arange(1, 2 * min(_CHUNK, flat.numel()), 2, device=flat.device)
    for number, part in enumerate(torch.split(flat, _CHUNK)):
        bits = part.long()
        plain += bits.sum()
        weighted += ((odd[: len(bits)] + 2 * _CHUNK * number) * (bits ^ (bits << 29))).sum()
    return int(plain), int(weighted)
