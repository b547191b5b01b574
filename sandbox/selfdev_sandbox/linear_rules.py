"""What each operation does to combinations of inputs: one rule per operation that keeps them, arguments by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from selfdev_sandbox import linear_blocks as blocks
from selfdev_sandbox.allowlist import OPS, Op
from selfdev_sandbox.linear_blocks import Block, NotLinear
from selfdev_sandbox.rows import ROWS
from selfdev_sandbox.trace_flow import ROW_NUMBER, canonical_name

Known = Block | Tensor  # a combination of inputs, or a constant
SMALL = 4096  # elements of a constant that is computed as it is


def one_of(value: Tensor) -> Tensor:
    """One element, as a tensor with axes of size 1, of a constant that is the same everywhere."""
    if any(stride != 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True)):
        raise NotLinear("a large constant")
    return value[tuple(slice(0, 1) for _ in value.shape)]


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """As `torch.broadcast_shapes`, whose first call imports sympy for half a second."""
    rank = max(map(len, shapes), default=0)
    wide = [[1] * (rank - len(shape)) + list(shape) for shape in shapes]
    out = tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*wide, strict=True))
    if any(size not in (1, most) for shape in wide for size, most in zip(shape, out, strict=True)):
        raise NotLinear("sizes do not match")
    return out


def is_zero(value: Any) -> bool:
    """Whether a number or a constant is zero everywhere."""
    if isinstance(value, Tensor):
        return not bool((value if value.numel() <= SMALL else one_of(value)).any())
    return bool(value == 0)


def filled(op: Op, named: dict[str, Any]) -> Tensor | None:
    """`zeros`, `full_like` and the like without their memory."""
    stem = op.name.removeprefix("new_").removesuffix("_like")
    if stem not in ("zeros", "ones", "empty", "full") or op.writes:
        return None
    like: Any = named.get("input")
    shape = like.shape if op.name.endswith("_like") else named.get("size", [])
    shape = [shape] if isinstance(shape, int) else shape[0] if shape and isinstance(shape[0], list) else shape
    value = named["fill_value"] if stem == "full" else float(stem == "ones")
    dtype = named.get("dtype") or (like.dtype if isinstance(like, Tensor) else torch.float64)
    return torch.tensor(value, dtype=dtype).expand(list(shape))


def fit(value: Any, shape: Sequence[int]) -> Known:
    """A value as it is written over a tensor of that shape."""
    if isinstance(value, Block):
        return blocks.expand(value, shape)
    return torch.as_tensor(value).expand(list(shape))


def _zero_block(shape: Sequence[int], mix: bool) -> Block:
    axes = tuple((mix and i == 0 and size > 1, size) for i, size in enumerate(shape))
    return Block(axes, {})


def put(target: Known, index: list[Any], value: Any) -> Known:
    """`target[index] = value` for all of it, or for one row of combinations."""
    rank = len(target.shape)
    items = [i for i in index if i is not Ellipsis]
    if all(isinstance(i, slice) and i == slice(None) for i in items):
        return fit(value, target.shape)
    if not items or type(items[0]) is not int or not all(i == slice(None) for i in items[1:]) or index[0] is Ellipsis:
        raise NotLinear("a write to a part")
    if isinstance(target, Tensor) and not isinstance(value, Block):
        out = target.clone()
        out[tuple(index)] = value
        return out
    if isinstance(target, Tensor):
        if rank < 1 or not is_zero(target):
            raise NotLinear("a constant beside combinations")
        target = _zero_block(target.shape, mix=True)
    row = fit(value, target.shape[1:])
    if isinstance(row, Tensor):
        if not is_zero(row):
            raise NotLinear("a constant beside combinations")
        row = _zero_block(row.shape, mix=False)
    if target.shape[0] == 1:
        return blocks.reshape(row, target.shape)
    return blocks.replace_row(target, items[0], row)


# Rules: arguments by name, at least one of them a Block.


def _sum(a: Any, b: Any, scale: Any) -> Known:
    if not isinstance(scale, (int, float)):
        raise NotLinear("a scale that is not a number")
    if isinstance(a, Block) and isinstance(b, Block):
        return blocks.add(a, b, float(scale))
    block, other = (a, b) if isinstance(a, Block) else (b, a)
    zero = is_zero(other)
    shape = () if isinstance(other, (int, float)) else other.shape
    if not zero or broadcast(block.shape, shape) != block.shape:
        raise NotLinear("a constant is added")
    return block if block is a else blocks.scale(block, float(scale), torch.mul)


def _add(input: Any, other: Any, alpha: Any = 1) -> Known:
    return _sum(input, other, alpha)


def _sub(input: Any, other: Any, alpha: Any = 1) -> Known:
    return _sum(input, other, -alpha)


def _rsub(input: Any, other: Any, alpha: Any = 1) -> Known:
    return _sum(other, input, -alpha)


def _mul(input: Any, other: Any) -> Known:
    block, factor = (input, other) if isinstance(input, Block) else (other, input)
    if isinstance(factor, Block):
        raise NotLinear("a product of combinations")
    return blocks.scale(block, factor, torch.mul)


def _div(input: Any, other: Any, rounding_mode: Any = None) -> Known:
    if not isinstance(input, Block) or isinstance(other, Block) or rounding_mode is not None:
        raise NotLinear("a division")
    return blocks.scale(input, other, torch.div)


def _neg(input: Block) -> Known:
    return blocks.scale(input, -1.0, torch.mul)


def _lerp(input: Any, end: Any, weight: Any) -> Known:
    return _sum(input, _mul(_sum(end, input, -1), weight), 1)


def _same(input: Block, **_other: Any) -> Known:
    return input


def _type_as(input: Block, other: Known) -> Block:
    return _to(input, other.dtype if isinstance(other, Tensor) else None)


def _to(input: Block, dtype: Any = None, copy: bool = False) -> Block:
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        raise NotLinear("rounded to integers")
    return input


def _like(op: str) -> Callable[..., Known]:
    def rule(**named: Any) -> Known:
        row = OPS[ROW_NUMBER[op]]
        made = filled(row, named)
        assert made is not None
        return made

    return rule


_LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full")


def _dims(dim: Any) -> list[int] | None:
    return [dim] if isinstance(dim, int) else dim


def _reduction(mean: bool) -> Callable[..., Known]:
    def rule(input: Block, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Known:
        input = _to(input, dtype)
        return blocks.reduce(input, _dims(dim), bool(keepdim), mean)

    return rule


def _joined(new: bool) -> Callable[..., Known]:
    def rule(tensors: Any, dim: int = 0) -> Known:
        shape = next(t.shape for t in tensors if isinstance(t, Block))
        pieces = []
        for t in tensors:
            if isinstance(t, Tensor):
                if not is_zero(t) or t.shape != shape:
                    raise NotLinear("a constant beside combinations")
                t = _zero_block(t.shape, mix=False)
            pieces.append(t)
        return blocks.join(pieces, dim, new)

    return rule


def _size(shape: Any) -> list[int]:
    flat = shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], list) else shape
    return [flat] if isinstance(flat, int) else list(flat)


def _view(input: Block, shape: Any) -> Known:
    return blocks.reshape(input, _size(shape))


def _view_as(input: Block, other: Any) -> Known:
    return blocks.reshape(input, other.shape)


def _flatten(input: Block, start_dim: int = 0, end_dim: int = -1) -> Known:
    rank = max(1, len(input.shape))
    start, end = start_dim % rank, end_dim % rank
    return blocks.reshape(input, [*input.shape[:start], -1, *input.shape[end + 1 :]])


def _unflatten(input: Block, dim: int, sizes: Any) -> Known:
    at = dim % len(input.shape)
    return blocks.reshape(input, [*input.shape[:at], *sizes, *input.shape[at + 1 :]])


def _squeeze(input: Block, dim: Any = None) -> Known:
    rank = len(input.shape)
    picked = set(range(rank)) if dim is None else {d % rank for d in _dims(dim) or []}
    return blocks.reshape(input, [size for i, size in enumerate(input.shape) if i not in picked or size != 1])


def _unsqueeze(input: Block, dim: int) -> Known:
    at = dim % (len(input.shape) + 1)
    return blocks.pick(input, [*[slice(None)] * at, None])


def _permute(input: Block, dims: Any) -> Known:
    return blocks.permute(input, _size(dims))


def _transpose(input: Block, dim0: int, dim1: int) -> Known:
    order = list(range(len(input.shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return blocks.permute(input, order)


def _turned(input: Block) -> Known:
    return blocks.permute(input, list(range(len(input.shape)))[::-1]) if len(input.shape) == 2 else _same(input)


def _expand(input: Block, size: Any) -> Known:
    return blocks.expand(input, _size(size))


def _expand_as(input: Block, other: Any) -> Known:
    return blocks.expand(input, other.shape)


def _getitem(input: Block, index: list[Any]) -> Known:
    return blocks.pick(input, index)


def _select(input: Block, dim: int, index: int) -> Known:
    return blocks.pick(input, [*[slice(None)] * (dim % len(input.shape)), index])


def _narrow(input: Block, dim: int, start: int, length: int) -> Known:
    return blocks.pick(input, [*[slice(None)] * (dim % len(input.shape)), slice(start, start + length)])


def _unbind(input: Block, dim: int = 0) -> list[Known]:
    return [_select(input, dim, i) for i in range(input.shape[dim])]


def _contract(factor: Tensor | None, own: str, block: Block, labels: str, out: str) -> Known:
    """An einsum of a constant and a block: the constant's labels are among the block's."""
    if len(set(labels)) != len(labels) or set(own) - set(labels) or set(out) - set(labels) or len(set(own)) != len(own):
        raise NotLinear("a contraction")
    if factor is not None:
        order = sorted(range(len(own)), key=lambda i: labels.index(own[i]))
        wide = factor.permute(order).reshape([factor.shape[own.index(c)] if c in own else 1 for c in labels])
        block = blocks.scale(block, wide, torch.mul)
    gone = [i for i, c in enumerate(labels) if c not in out]
    block = blocks.reduce(block, gone, False, mean=False) if gone else block
    kept = [c for c in labels if c in out]
    return blocks.permute(block, [kept.index(c) for c in out])


def _einsum(equation: str, operands: list[Any]) -> Known:
    given, _, out = equation.replace(" ", "").partition("->")
    if "->" not in equation or not 1 <= len(operands) <= 2:
        raise NotLinear("a contraction")
    labels = given.split(",")
    spare = [len(t.shape) - len(word.replace("...", "")) for t, word in zip(operands, labels, strict=True)]
    dots = "".join(chr(0x100 + i) for i in range(max(s for s, w in zip(spare, labels, strict=True) if "..." in w))) \
        if "..." in given else ""  # fmt: skip
    labels, out = [word.replace("...", dots) for word in labels], out.replace("...", dots)
    at = next(i for i, t in enumerate(operands) if isinstance(t, Block))
    factor = operands[1 - at] if len(operands) == 2 else None
    if isinstance(factor, Block):
        raise NotLinear("a product of combinations")
    return _contract(factor, labels[1 - at] if factor is not None else "", operands[at], labels[at], out)


def _tensordot(a: Any, b: Any, dims: Any = 2) -> Known:
    left, right = (dims, dims) if not isinstance(dims, int) else (None, None)
    if isinstance(dims, list):
        left, right = _dims(dims[0]), _dims(dims[1])
    ranks = len(a.shape), len(b.shape)
    if isinstance(dims, int):
        left, right = list(range(ranks[0] - dims, ranks[0])), list(range(dims))
    names = "abcdefgh"[: ranks[0]], list("ijklmnop"[: ranks[1]])
    for i, j in zip(left or [], right or [], strict=True):
        names[1][j % ranks[1]] = names[0][i % ranks[0]]
    second = "".join(names[1])
    out = "".join(c for c in names[0] if c not in second) + "".join(c for c in second if c not in names[0])
    return _einsum(f"{names[0]},{second}->{out}", [a, b])


def _matmul(input: Any, other: Any) -> Known:
    spec = {(1, 2): "i,ij->j", (2, 1): "ij,j->i", (1, 1): "i,i->", (1, 3): "j,ijk->ik"}
    return _einsum(spec[len(input.shape), len(other.shape)], [input, other])


def _mv(input: Any, vec: Any) -> Known:
    return _matmul(input, vec)


def viewed(op: Op, value: Known, named: dict[str, Any]) -> Known:
    """A view of a value."""
    if isinstance(value, Block):
        return RULES[canonical_name(op.name)](input=value, **named)  # type: ignore[no-any-return]
    function = ROWS[ROW_NUMBER[op.name]].function
    if op.name in ("view", "reshape"):
        return value.reshape(_size(named["shape"]))
    made = function(value, **named) if op.name != "expand" else value.expand(_size(named["size"]))
    if not isinstance(made, Tensor):
        raise NotLinear("several views")
    return made


RULES: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "lerp": _lerp,
    "sum": _reduction(mean=False),
    "mean": _reduction(mean=True),
    "stack": _joined(new=True),
    "cat": _joined(new=False),
    "view": _view,
    "reshape": _view,
    "view_as": _view_as,
    "reshape_as": _view_as,
    "flatten": _flatten,
    "ravel": _flatten,
    "unflatten": _unflatten,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "permute": _permute,
    "transpose": _transpose,
    "t": _turned,
    "T": _turned,
    "mT": lambda input: _transpose(input, -2, -1),
    "expand": _expand,
    "expand_as": _expand_as,
    "broadcast_to": _expand,
    "getitem": _getitem,
    "select": _select,
    "narrow": _narrow,
    "unbind": _unbind,
    "einsum": _einsum,
    "tensordot": _tensordot,
    "matmul": _matmul,
    "mv": _mv,
    "to": _to,
    **dict.fromkeys(("clone", "contiguous", "detach", "positive"), _same),
    "type_as": _type_as,
    **{name: _like(name) for name in _LIKE},
}
