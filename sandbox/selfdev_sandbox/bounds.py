"""Bounds of the output of operations that need a formula of their own, in bytes; upper bounds.

Errors that PyTorch would raise anyway are left to PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from selfdev_sandbox.measure import (
    HUGE,
    broadcast_numel,
    indexed_axes,
    label_sizes,
    nbytes,
    numbers_in,
    product_of,
    shared_elements,
    tensors_in,
    width_of,
)


def _of_size(args: list[Any], kwargs: dict[str, Any]) -> int:
    """zeros(2, 3), zeros((2, 3)), new_zeros(input, 2, 3): the product of the integers."""
    sizes = [n for a in args if isinstance(a, (int, list, tuple)) for n in numbers_in(a)] + numbers_in(
        kwargs.get("size", [])
    )
    dtype = kwargs.get("dtype") or next((a.dtype for a in args if isinstance(a, torch.Tensor)), torch.float32)
    return product_of(sizes) * dtype.itemsize


def _multinomial(args: list[Any], kwargs: dict[str, Any]) -> int:
    """Rows times samples, and PyTorch's copies of the probabilities."""
    tensor = _all(args, kwargs)[0]
    samples = _value(args, kwargs, "num_samples", 1, 1)
    rows = tensor.numel() // max(1, tensor.shape[-1]) if tensor.dim() else 1
    return 64 * rows * max(0, samples) + 16 * tensor.numel() if isinstance(samples, int) else HUGE


def _roll(args: list[Any], kwargs: dict[str, Any]) -> int:
    """One tensor per shift: PyTorch holds them all until the last is done."""
    shifts = _value(args, kwargs, "shifts", 1, 1)
    return nbytes(_all(args, kwargs)[0]) * max(1, len(numbers_in(shifts)))


def _first_size(args: list[Any], kwargs: dict[str, Any]) -> int:
    """full(size, fill), new_full(input, size, fill)."""
    sizes = next((a for a in args if isinstance(a, (list, tuple))), None)
    if sizes is None:
        sizes = kwargs.get("size", args[:1] if args and isinstance(args[0], int) else [])
    return product_of(numbers_in(sizes)) * 8


def _data_size(args: list[Any], kwargs: dict[str, Any]) -> int:
    """tensor(data, shape), new_tensor(input, data, shape): the numbers given; a shape must fit them."""
    data = kwargs.get("data", next((a for a in args if isinstance(a, (list, tuple, int, float))), []))
    return 8 * (len(data) if isinstance(data, (list, tuple)) else 1)


def _arange(args: list[Any], kwargs: dict[str, Any]) -> int:
    numbers = [a for a in args if isinstance(a, (int, float))]
    start = numbers[0] if len(numbers) > 1 else kwargs.get("start", 0)
    end = kwargs.get("end", numbers[min(1, len(numbers) - 1)] if numbers else 0)
    step = kwargs.get("step", numbers[2] if len(numbers) > 2 else 1)
    if not step or not math.isfinite((end - start) / step):
        return HUGE if step else 0
    return int(8 * max(0, math.ceil((end - start) / step) + 1))


def _named_int(name: str, position: int, scale: int = 8) -> Callable[[list[Any], dict[str, Any]], int]:
    def bound(args: list[Any], kwargs: dict[str, Any]) -> int:
        value = kwargs.get(name, args[position] if len(args) > position else 100)
        return scale * max(0, int(value)) if isinstance(value, int) else HUGE

    return bound


def _eye(args: list[Any], kwargs: dict[str, Any]) -> int:
    n = kwargs.get("n", args[0] if args else 0)
    m = kwargs.get("m", args[1] if len(args) > 1 and isinstance(args[1], int) else n)
    return 8 * product_of([n, m if isinstance(m, int) else n])


def _indices(args: list[Any], kwargs: dict[str, Any]) -> int:
    return 2 * _eye(
        args[:2], {"n": kwargs.get("row", args[0] if args else 0), "m": kwargs.get("col", 0)} if kwargs else {}
    )


def _where(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensors = tensors_in([*args, *kwargs.values()])
    if len(args) + len(kwargs) < 3:
        return _nonzero(args, kwargs)
    return broadcast_numel(tensors) * max(4, *(t.element_size() for t in tensors))


def _nonzero(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor = tensors_in([*args, *kwargs.values()])[0]
    return tensor.numel() * 8 * max(1, tensor.dim())


def _quantile(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensors = tensors_in([*args, *kwargs.values()])
    points = tensors[1].numel() if len(tensors) > 1 else 1
    return tensors[0].element_size() * tensors[0].numel() * (1 + points)  # PyTorch sorts a copy


def _bincount(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor = tensors_in([*args, *kwargs.values()])[0]
    largest = int(tensor.max()) + 1 if tensor.numel() and not tensor.is_floating_point() else 0
    least = kwargs.get("minlength", args[2] if len(args) > 2 else 0)
    return 8 * max(largest, least if isinstance(least, int) else 0)


def _one_hot(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor = tensors_in([*args, *kwargs.values()])[0]
    classes = kwargs.get("num_classes", args[1] if len(args) > 1 else -1)
    largest = int(tensor.max()) + 1 if tensor.numel() else 0
    if tensor.numel() and (int(tensor.min()) < 0 or (classes >= 0 and largest > classes)):
        raise RuntimeError("Class values must be non-negative and smaller than num_classes.")
    return int(8 * tensor.numel() * max(classes, largest, 0))


def _repeat_interleave(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor = tensors_in([*args, *kwargs.values()])[0]
    repeats = kwargs.get("repeats", args[1] if len(args) > 1 else 1)
    if not isinstance(repeats, torch.Tensor):
        return nbytes(tensor) * max(0, int(repeats))
    if repeats.numel() and int(repeats.min()) < 0:
        raise RuntimeError("repeats can not be negative")
    dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
    rows = max(1, tensor.shape[dim]) if isinstance(dim, int) and tensor.dim() else max(1, tensor.numel())
    total = int(repeats.sum()) * (rows if repeats.numel() == 1 else 1)
    return nbytes(tensor) // rows * total + total * 8


def _combinations(args: list[Any], kwargs: dict[str, Any]) -> int:
    count = tensors_in([*args, *kwargs.values()])[0].numel()
    r = kwargs.get("r", args[1] if len(args) > 1 and isinstance(args[1], int) else 2)
    return 8 * min(HUGE, (max(count, 1) + max(r, 0)) ** max(1, min(r, 8)) * max(1, r)) if r <= 8 else HUGE


def _getitem(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor, index = args
    picked = [i for i in index if isinstance(i, torch.Tensor)]
    if not picked:
        return 0
    masks = [i for i in picked if i.dtype in (torch.bool, torch.uint8)]
    places = [i for i in picked if i.dtype not in (torch.bool, torch.uint8)]
    total = tensor.numel()
    if places:
        width = math.prod(max(1, size) for size in _axis_sizes(tensor, index))
        total = broadcast_numel(places) * max(1, total // width)
    return int(total * tensor.element_size() + sum(8 * m.numel() for m in masks))


def _axis_sizes(tensor: torch.Tensor, index: Sequence[Any]) -> list[int]:
    return [
        tensor.shape[axis] for axis, item in indexed_axes(tensor, index) if item.dtype not in (torch.bool, torch.uint8)
    ]


def _normal(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensors = tensors_in([*args, *kwargs.values()])
    return max(_first_size(args, kwargs), 8 * broadcast_numel(tensors) if tensors else 0)


def _all(args: list[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    return tensors_in([*args, *kwargs.values()])


def _value(args: list[Any], kwargs: dict[str, Any], name: str, position: int, default: Any) -> Any:
    return kwargs.get(name, args[position] if len(args) > position else default)


def _repeat(args: list[Any], kwargs: dict[str, Any]) -> int:
    numbers = [n for a in [*args, *kwargs.values()] if not isinstance(a, torch.Tensor) for n in numbers_in(a)]
    return nbytes(_all(args, kwargs)[0]) * product_of(numbers)


def _diag(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor, offset = _all(args, kwargs)[0], abs(int(_value(args, kwargs, "diagonal", 1, 0)))
    last = tensor.shape[-1] if tensor.dim() else 1
    return tensor.numel() // max(1, last) * (last + offset) ** 2 * tensor.element_size()


def _diagflat(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor, offset = (
        _all(args, kwargs)[0],
        abs(int(_value(args, kwargs, "offset", 1, _value(args, kwargs, "diagonal", 1, 0)))),
    )
    return (tensor.numel() + offset) ** 2 * tensor.element_size()


def _outer(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensors = _all(args, kwargs)[-2:]
    return math.prod(t.numel() for t in tensors) * width_of(tensors, args, kwargs)


def _vander(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor = _all(args, kwargs)[0]
    columns = _value(args, kwargs, "N", 1, None)
    return tensor.numel() * (tensor.numel() if columns is None else max(0, columns)) * 8


def _gather(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensors = _all(args, kwargs)
    return tensors[-1].numel() * tensors[0].element_size()


def _take_along(args: list[Any], kwargs: dict[str, Any]) -> int:
    """The index is broadcast to the input except along `dim`."""
    tensors = _all(args, kwargs)
    return broadcast_numel(tensors) * (tensors[0].element_size() + 8)


def _index_select(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor, index = _all(args, kwargs)[:2]
    dim = _value(args, kwargs, "dim", 1, 0)
    size = tensor.shape[dim] if -tensor.dim() <= dim < tensor.dim() else 1
    return nbytes(tensor) // max(1, size) * index.numel()


def _matmul(args: list[Any], kwargs: dict[str, Any]) -> int:
    """(batch, m, k) x (batch, k, n): broadcast batch times m times n."""
    tensors = _all(args, kwargs)
    a, b = tensors[-2:] if len(tensors) > 1 else (tensors[0], tensors[0])
    rows, columns = (a.shape[-2] if a.dim() > 1 else 1), (b.shape[-1] if b.dim() > 1 else 1)
    left, right = list(a.shape[:-2]), list(b.shape[:-2])
    depth = max(len(left), len(right))
    left, right = [1] * (depth - len(left)) + left, [1] * (depth - len(right)) + right
    return math.prod(map(max, left, right)) * rows * columns * max(t.element_size() for t in tensors)


def _linear(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensors = _all(args, kwargs)
    a, weight = tensors[0], tensors[1] if len(tensors) > 1 else tensors[0]
    return nbytes(a) // max(1, a.shape[-1] if a.dim() else 1) * (weight.shape[0] if weight.dim() else 1)


def _inner(args: list[Any], kwargs: dict[str, Any]) -> int:
    a, b = (_all(args, kwargs) * 2)[:2]
    shared = a.shape[-1] if a.dim() and b.dim() else 1
    return nbytes(a) // max(1, shared) * max(1, b.numel() // max(1, shared))


def _einsum(args: list[Any], kwargs: dict[str, Any]) -> int:
    """The output's labels give its size; without `->` every label is taken."""
    tensors = _all(args, kwargs)
    sizes_of, rest = label_sizes(args, tensors)
    equation = args[0] if args and isinstance(args[0], str) else ""
    wanted = equation.split("->")[1] if "->" in equation else "".join(sizes_of) + "..."
    return (
        product_of([sizes_of.get(c, 1) for c in wanted if c.isalpha()])
        * (rest if "..." in wanted else 1)
        * max([4, *(t.element_size() for t in tensors)])
    )


def _tensordot(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensors = _all(args, kwargs)
    if len(tensors) < 2:
        return HUGE
    shared = shared_elements([*tensors, _value(args, kwargs, "dims", 2, 2)])
    return tensors[0].numel() * tensors[1].numel() // max(1, shared * shared) * tensors[0].element_size()


def _cdist(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensors = _all(args, kwargs)
    a, b = (tensors * 2)[:2]
    batch = max(a.numel() // max(1, product_of(a.shape[-2:])), b.numel() // max(1, product_of(b.shape[-2:])), 1)
    return batch * product_of([*a.shape[-2:-1], *b.shape[-2:-1]]) * a.element_size()


def _square(args: list[Any], kwargs: dict[str, Any]) -> int:
    """Decompositions: the full factors of every matrix of the batch, and the matrix itself."""
    total = 0
    for tensor in _all(args, kwargs):
        rows, columns = (1, 1, *tensor.shape)[-2:]
        total += tensor.numel() // max(1, rows * columns) * (rows + columns) ** 2 * max(4, tensor.element_size())
    return total


def _block_diag(args: list[Any], kwargs: dict[str, Any]) -> int:
    shapes = [(1, 1, *t.shape)[-2:] for t in _all(args, kwargs)]
    return int(sum(s[0] for s in shapes) * sum(s[1] for s in shapes) * 8)


def _multi_dot(args: list[Any], kwargs: dict[str, Any]) -> int:
    shapes = [(1, 1, *t.shape)[-2:] for t in _all(args, kwargs)]
    return int(2 * max(s[0] for s in shapes) * max(s[1] for s in shapes) * 8)


def _pad(args: list[Any], kwargs: dict[str, Any]) -> int:
    tensor, pads = _all(args, kwargs)[0], numbers_in(_value(args, kwargs, "pad", 1, []))
    sizes = list(tensor.shape)
    for i, amount in enumerate(pads):
        if i // 2 < len(sizes):
            sizes[-1 - i // 2] += max(0, amount)
    return product_of(sizes) * tensor.element_size()


def _pool(args: list[Any], kwargs: dict[str, Any]) -> int:
    return 4 * nbytes(_all(args, kwargs)[0])  # padding is at most half the kernel, the stride at least one


OWN: dict[str, Callable[[list[Any], dict[str, Any]], int]] = {
    "zeros": _of_size,
    "ones": _of_size,
    "empty": _of_size,
    "new_zeros": _of_size,
    "new_ones": _of_size,
    "new_empty": _of_size,
    "rand": _of_size,
    "randn": _of_size,
    "full": _first_size,
    "new_full": _first_size,
    "randint": _first_size,
    "tensor": _data_size,
    "new_tensor": _data_size,
    "arange": _arange,
    "linspace": _named_int("steps", 2),
    "logspace": _named_int("steps", 2),
    "eye": _eye,
    "tril_indices": _indices,
    "triu_indices": _indices,
    "where": _where,
    "nonzero": _nonzero,
    "argwhere": _nonzero,
    "quantile": _quantile,
    "nanquantile": _quantile,
    "histc": _named_int("bins", 1),
    "bincount": _bincount,
    "nn.functional.one_hot": _one_hot,
    "repeat_interleave": _repeat_interleave,
    "combinations": _combinations,
    "getitem": _getitem,
    "randperm": _named_int("n", 0),
    "multinomial": _multinomial,
    "roll": _roll,
    "normal": _normal,
    "repeat": _repeat,
    "tile": _repeat,
    "diag": _diag,
    "diag_embed": _diag,
    "diagflat": _diagflat,
    "kron": _outer,
    "outer": _outer,
    "ger": _outer,
    "addr": _outer,
    "addr_": _outer,
    "vander": _vander,
    "gather": _gather,
    "take": _gather,
    "take_along_dim": _take_along,
    "index_select": _index_select,
    "inner": _inner,
    "einsum": _einsum,
    "tensordot": _tensordot,
    "cdist": _cdist,
    "block_diag": _block_diag,
    "linalg.multi_dot": _multi_dot,
    "nn.functional.pad": _pad,
    "nn.functional.linear": _linear,
    "nn.functional.avg_pool1d": _pool,
    "nn.functional.max_pool1d": _pool,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "addmm", "addmv", "baddbmm", "linalg.matmul"), _matmul),
    **dict.fromkeys(
        (
            "corrcoef",
            "cov",
            "svd",
            "qr",
            "inverse",
            "det",
            "logdet",
            "pinverse",
            "matrix_exp",
            "matrix_power",
            *(
                f"linalg.{n}"
                for n in [
                    "svd",
                    "svdvals",
                    "qr",
                    "eigh",
                    "eigvalsh",
                    "cholesky",
                    "inv",
                    "det",
                    "slogdet",
                    "solve",
                    "pinv",
                    "matrix_exp",
                    "matrix_power",
                ]
            ),
        ),
        _square,
    ),
}
