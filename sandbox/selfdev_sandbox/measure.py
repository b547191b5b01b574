"""How large tensors and arguments are: what the bounds in `bounds` and `sizes` are computed from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

HUGE = 1 << 62

# Time per unit of work (a byte, a multiplication) in units of the device's speed: what one thread of a busy machine
# takes, output pages touched for the first time included. A started operation cannot be stopped, so these err upwards.
_SLOW_COST = {"linear": 5.0, "sort": 40.0, "pool": 5.0, "matmul": 1.0, "cubic": 1.0, "einsum": 1.0}
_SLOW_NAMES = {
    400.0: "digamma i0 lgamma logcumsumexp multinomial randperm",
    100.0: (
        "acosh arccosh arcsinh asinh bernoulli dropout erfinv exponential float_power heaviside histc ldexp"
        " nanquantile normal quantile rmod rpow sinc"
    ),
    20.0: "kron kthvalue median nanmedian topk",  # selections are linear
    50.0: (
        "acos arccos arcsin arctan arctan2 arctanh argwhere asin atan atan2 atanh combinations cosh dist erf erfc"
        " exp exp2 expm1 gather gelu getitem hypot index_add index_copy index_fill index_select kl_div log log10"
        " log1p log2 logaddexp logaddexp2 logit logsumexp masked_scatter masked_select mish nonzero one_hot"
        " pairwise_distance pow rand rand_like randn randn_like renorm roll scatter scatter_add scatter_reduce setitem"
        " sinh softplus take take_along_dim tan tanh tanhshrink uniform xlogy"
    ),
}
_SLOW = {name: factor for factor, names in _SLOW_NAMES.items() for name in names.split()}


def slowness(name: str, cost: str) -> float:
    """Time per unit of work of a row, in units of the device's speed."""
    return _SLOW.get(name.rpartition(".")[2].rstrip("_"), _SLOW_COST[cost])


def tensors_in(values: Sequence[Any]) -> list[torch.Tensor]:
    """Tensors among arguments, lists looked into."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(v for v in value if isinstance(v, torch.Tensor))
    return found


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes an operation reads from it (repeated elements counted)."""
    return tensor.numel() * tensor.element_size()


def broadcast_numel(tensors: Sequence[torch.Tensor]) -> int:
    """Elements of the broadcast of all; the product of sizes where they do not match (PyTorch then raises)."""
    if len(tensors) == 1 or all(t.shape == tensors[0].shape for t in tensors):
        return tensors[0].numel()
    rank = max(t.dim() for t in tensors)
    total = 1
    for axis in range(1, rank + 1):
        total *= max((t.shape[-axis] for t in tensors if t.dim() >= axis), default=1)
    return total


# Results are int64 or float64 whatever the input.
WIDE = frozenset(
    [
        "argsort",
        "argmax",
        "argmin",
        "bucketize",
        "searchsorted",
        "float_power",
        "count_nonzero",
        "unique",
        "unique_consecutive",
    ]
)


def width_of(tensors: Sequence[torch.Tensor], args: list[Any], kwargs: dict[str, Any]) -> int:
    """Bytes per element of a result: the widest input or dtype asked for; 8 where integers may become int64."""
    if not all(t.is_floating_point() for t in tensors):
        return 8
    asked = [v.itemsize for v in (*args, *kwargs.values()) if isinstance(v, torch.dtype)]
    return max([4, *asked, *(t.element_size() for t in tensors)])


def numbers_in(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else [v for v in value if isinstance(v, int)]


def product_of(sizes: Sequence[int]) -> int:
    return math.prod(max(int(s), 0) for s in sizes)


def label_sizes(args: list[Any], tensors: Sequence[torch.Tensor]) -> tuple[dict[str, int], int]:
    """Sizes by label of an einsum equation, and the elements that `...` stands for."""
    sizes_of: dict[str, int] = {}
    rest = 1
    equation = args[0] if args and isinstance(args[0], str) else ""
    for labels, tensor in zip(equation.replace(" ", "").split("->")[0].split(","), tensors, strict=False):
        names, shape = labels.replace("...", ""), list(tensor.shape)
        extra = len(shape) - len(names)
        if "..." in labels and extra > 0:
            at = labels.index("...")
            rest = max(rest, product_of(shape[at : at + extra]))
            del shape[at : at + extra]
        for name, size in zip(names, shape, strict=False):
            sizes_of[name] = max(size, sizes_of.get(name, 0))
    return sizes_of, rest


def shared_elements(args: list[Any]) -> int:
    """Elements of the contracted axes."""
    tensors = tensors_in(args)
    dims = args[2] if len(args) > 2 else 2
    if isinstance(dims, int):
        return product_of(tensors[0].shape[-dims:]) if dims > 0 else 1
    axes = dims[0] if isinstance(dims[0], list) else [dims[0]]
    return product_of([tensors[0].shape[d] for d in axes])


def indexed_axes(tensor: torch.Tensor, index: Sequence[Any]) -> list[tuple[int, torch.Tensor]]:
    """(axis, index tensor) of the advanced parts of an index; axes beyond the tensor are left out."""
    used = sum(
        i.dim()
        if isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8)
        else 0
        if i is None or i is Ellipsis or isinstance(i, bool)
        else 1
        for i in index
    )
    axis, found = 0, []
    for item in index:
        if item is Ellipsis:
            axis += max(0, tensor.dim() - used)
        elif isinstance(item, torch.Tensor):
            if axis < tensor.dim():
                found.append((axis, item))
            axis += item.dim() if item.dtype in (torch.bool, torch.uint8) else 1
        elif item is not None and not isinstance(item, bool):
            axis += 1
    return found
