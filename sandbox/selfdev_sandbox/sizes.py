"""What an operation will allocate and cost, known before it runs: output sizes, work, index ranges.

Formulas, not meta tensors: the first operation on a meta tensor imports sympy and more (seconds, inside a program's
deadline), and each costs as much as a small operation itself.

Bounds are upper bounds in bytes and floating-point operations; they err upwards where an exact figure would cost more
than it is worth. Errors that PyTorch would raise anyway are left to PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from selfdev_sandbox.allowlist import Op
from selfdev_sandbox.bounds import OWN
from selfdev_sandbox.measure import (
    HUGE,
    WIDE,
    broadcast_numel,
    label_sizes,
    numbers_in,
    product_of,
    shared_elements,
    tensors_in,
    width_of,
)


def output_bytes(op: Op, args: list[Any], kwargs: dict[str, Any]) -> int:
    """Upper bound of the bytes that the results will take."""
    if op.size == "view":
        return 0
    tensors = tensors_in([*args, *kwargs.values()])
    if op.size == "own":
        return int(min(HUGE, OWN[op.name](args, kwargs)))
    width = 8 if op.name in WIDE or "indices" in op.fields else width_of(tensors, args, kwargs)
    results = max(len(op.fields), 2 if op.outputs == 0 else 1)
    if op.size == "reduce" and _to_scalar(op, args, kwargs):
        return 8 * results
    if op.size == "reduce":
        return max((t.numel() for t in tensors), default=0) * width * results
    if op.size == "total":
        return sum(t.numel() for t in tensors) * width * results
    return broadcast_numel(tensors) * width * results if tensors else HUGE


def same_bytes(op: Op, tensors: Sequence[torch.Tensor], args: list[Any], kwargs: dict[str, Any]) -> int:
    """`output_bytes` of the commonest kind of row: one result, the broadcast of the inputs."""
    if not tensors:
        return HUGE
    if op.name in WIDE:
        return broadcast_numel(tensors) * 8
    first = tensors[0]
    if (
        len(tensors) == 1
        and not kwargs
        and type(args[-1]) is not torch.dtype
        and len(args) <= 2
        and first.is_floating_point()
    ):
        return first.numel() * max(4, first.element_size())
    return broadcast_numel(tensors) * width_of(tensors, args, kwargs)


def _to_scalar(op: Op, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """A reduction over all elements."""
    return len(args) == 1 and "dim" not in kwargs and any(p.name == "dim" for p in op.params) and op.name != "diff"


def pieces(op: Op, args: list[Any], kwargs: dict[str, Any]) -> int:
    """Upper bound of the number of tensors that an operation gives."""
    if op.name not in ("unbind", "split", "chunk", "tensor_split", "hsplit", "vsplit"):
        return 4 + len(args)
    tensor, asked = args[0], args[1] if len(args) > 1 else next(iter(kwargs.values()), 1)
    longest = max(tensor.shape, default=1)
    if op.name == "unbind":
        return longest
    if not isinstance(asked, int):
        return len(asked) + 1 if isinstance(asked, list) else longest
    return -(-longest // max(1, asked)) if op.name == "split" else max(1, asked)


def check_range(index: torch.Tensor, size: int, negative: bool) -> None:
    """Raise IndexError where an index is out of bounds: on an accelerator it would poison the device.

    Args:
        negative: whether -size .. -1 count from the end.
    """
    if index.dtype in (torch.bool, torch.uint8) or not index.numel() or index.is_floating_point():
        return
    low, high = (int(v) for v in torch.aminmax(index))
    if low < (-size if negative else 0) or high >= size:
        worst = high if high >= size else low
        raise IndexError(f"index {worst} is out of bounds for dimension with size {size}")


def flops(op: Op, args: list[Any], kwargs: dict[str, Any], moved: int) -> float:
    """Rough floating-point work; `moved` bytes stand for one operation each."""
    if op.cost == "linear":
        return float(moved)
    tensors = tensors_in([*args, *kwargs.values()])
    if op.cost == "sort":
        largest = max((t.numel() for t in tensors), default=1)
        return largest * 2.0 * math.log2(largest + 2)
    if op.cost == "matmul":
        return _matmul_flops(tensors) * _distance(op, args, kwargs) * _integers(tensors) + moved
    if op.cost == "cubic":
        if not _decomposes(op, args, kwargs):
            return float(moved)
        return sum(_decomposition(t) for t in tensors if t.dim() >= 2) * _products(op, args, kwargs) + moved
    if op.cost == "pool":
        kernel = args[1] if len(args) > 1 else kwargs.get("kernel_size", 1)
        return float(moved) * max([1, *(numbers_in(kernel) if kernel is not None else [])])
    return einsum_work(op, args) * _integers(tensors)


_MATRIX_NORMS = (2, -2, "nuc")  # by singular values; the others are sums


def _decomposes(op: Op, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Whether the work is cubic: norms are, of some orders only."""
    name = op.name.rpartition(".")[2]
    if name not in ("norm", "matrix_norm"):
        return True
    return kwargs.get("ord", args[1] if len(args) > 1 else None) in _MATRIX_NORMS


def _decomposition(tensor: torch.Tensor) -> float:
    """A batch of matrices: 20 m n min(m, n) each, and a fixed part that many small ones add up."""
    rows, columns = tensor.shape[-2:]
    return 20.0 * tensor.numel() * min(rows, columns) + 5e5 * (tensor.numel() // max(1, rows * columns))


def _distance(op: Op, args: list[Any], kwargs: dict[str, Any]) -> float:
    """`cdist` of an order other than 2 takes a power per pair and feature."""
    if op.name != "cdist":
        return 1.0
    return 10.0 if kwargs.get("p", args[2] if len(args) > 2 else 2) in (None, 2) else 200.0


def _integers(tensors: Sequence[torch.Tensor]) -> float:
    """Products of integer matrices have no fast kernels."""
    return 1.0 if all(t.is_floating_point() for t in tensors) else 300.0


def _products(op: Op, args: list[Any], kwargs: dict[str, Any]) -> float:
    """How often the work of one decomposition is done: powers and exponentials multiply again and again."""
    name = op.name.rpartition(".")[2]
    if name == "matrix_power":
        exponent = kwargs.get("n", args[1] if len(args) > 1 else 1)
        return max(1.0, abs(int(exponent or 0)).bit_length() / 4)
    if name != "matrix_exp":
        return 1.0
    matrix = tensors_in([*args, *kwargs.values()])[0]
    largest = float(matrix.abs().max()) if matrix.numel() else 0.0
    bits = math.log2(max(1.0, largest) * matrix.shape[-1]) if math.isfinite(largest) and matrix.dim() else 0.0
    return 1.0 + bits / 4


def _matmul_flops(tensors: Sequence[torch.Tensor]) -> float:
    """2 m n k of the last two; k is shared, so the larger operand times the other's free side bounds it."""
    if len(tensors) < 2:
        return 0.0
    a, b = tensors[-2:]
    columns = b.shape[-1] if b.dim() > 1 else 1
    rows = a.shape[-2] if a.dim() > 1 else 1
    return 2.0 * max(a.numel() * columns, b.numel() * rows)


def einsum_work(op: Op, args: list[Any]) -> float:
    """Upper bound of multiplications of a contraction: the product of all distinct sizes."""
    tensors = tensors_in(args)
    if op.name == "einsum":
        sizes_of, rest = label_sizes(args, tensors)
        return 2.0 * product_of(list(sizes_of.values())) * rest
    if op.name == "tensordot" and len(tensors) == 2:
        return 2.0 * tensors[0].numel() * tensors[1].numel() / max(1, shared_elements(args))
    return 2.0 * sum(t.numel() * max(u.shape[-1] for u in tensors if u.dim()) for t in tensors if t.dim())
