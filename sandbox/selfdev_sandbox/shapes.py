"""Shapes and dtypes of results that are plain to see, so that `.shape` and `.dtype` need not ask the server.

A rule answers only where it is certain; `None` means "ask". The server never uses these: a wrong one could mislead the
program, nobody else. Rules get the operation's arguments and look at `known_shape` and `known_dtype` of tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfdev_sandbox.allowlist import OPS, Op
from selfdev_sandbox.values import DTYPES, DType, Size, as_dtype

Known = tuple[Size | None, DType | None]
Rule = Callable[[Sequence[Any], Mapping[str, Any]], Known]

UNKNOWN: Known = (None, None)
_BOOL = DTYPES["bool"]


def _broadcast(shapes: Sequence[Size]) -> Size | None:
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    sizes = []
    for axis in range(-max(len(s) for s in shapes), 0):
        found = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(found) > 1:
            return None
        sizes.append(found.pop() if found else 1)
    return Size(sizes)


def _floating(tensors: Sequence[Any]) -> DType | None:
    """The dtype that all share, if it is a floating one."""
    dtype: DType | None = tensors[0].known_dtype
    same = dtype is not None and dtype.is_floating_point and all(t.known_dtype is dtype for t in tensors)
    return dtype if same else None


def _tensors(values: Sequence[Any]) -> list[Any] | None:
    """Tensors among arguments; None if there is one of unknown shape, or none."""
    found = [v for v in values if hasattr(v, "known_shape")]
    return found if found and all(t.known_shape is not None for t in found) else None


def _like(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    first = args[0]
    dtype = as_dtype(kwargs.get("dtype")) or first.known_dtype
    return first.known_shape, dtype if dtype is not None and dtype.is_floating_point else None


def _elementwise(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    tensors = _tensors([*args, *kwargs.values()])
    return (_broadcast([t.known_shape for t in tensors]), _floating(tensors)) if tensors else UNKNOWN


def _compare(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    return _elementwise(args, kwargs)[0], _BOOL


def _choose(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    """where(condition, a, b), masked_fill(a, mask, value): the mask's dtype does not matter."""
    shape = _elementwise(args, kwargs)[0]
    values = [v for v in args if hasattr(v, "known_shape") and v.known_dtype is not _BOOL]
    return shape, _floating(values) if values and len(args) == 3 else None


def _axes(dim: Any, rank: int) -> set[int] | None:
    dims = [dim] if type(dim) is int else dim
    if not isinstance(dims, (list, tuple)) or not all(type(d) is int and -rank <= d < rank for d in dims):
        return None
    return {d % rank for d in dims}


def _reduce(dtype: DType | None = None) -> Rule:
    def rule(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
        first, named = args[0], dict(kwargs)
        made = dtype or as_dtype(named.pop("dtype", None)) or first.known_dtype
        made = made if made is not None and (made.is_floating_point or dtype) else None
        dim, keep = args[1] if len(args) > 1 else named.pop("dim", None), named.pop("keepdim", False)
        if len(args) > 2 or type(keep) is not bool or named.keys() - {"unbiased", "correction"}:
            return UNKNOWN
        if dim is None and len(args) == 1:
            return Size([1] * len(first.known_shape)) if keep else Size(), made
        axes = _axes(dim, len(first.known_shape)) if first.known_shape else None
        if not axes:
            return UNKNOWN
        kept = [(1 if i in axes else n) for i, n in enumerate(first.known_shape) if keep or i not in axes]
        return Size(kept), made

    return rule


def _norm(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    order = [a for a in args[1:2] if type(a) in (int, float)]
    return _reduce()([args[0]], kwargs) if len(args) == 1 + len(order) and "dim" not in kwargs else UNKNOWN


def _reshape(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    first, sizes = args[0], args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
    if kwargs or not sizes or not all(type(n) is int for n in sizes):
        return UNKNOWN
    total, fixed = first.known_shape.numel(), Size(n for n in sizes if n != -1).numel()
    if list(sizes).count(-1) > 1 or not fixed or total % fixed:
        return UNKNOWN
    shape = Size(total // fixed if n == -1 else n for n in sizes)
    return (shape, first.known_dtype) if shape.numel() == total else UNKNOWN


def _flatten(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    first = args[0]
    return (Size([first.known_shape.numel()]), first.known_dtype) if len(args) == 1 and not kwargs else UNKNOWN


def _same(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    return (args[0].known_shape, args[0].known_dtype) if len(args) == 1 and not kwargs else UNKNOWN


def _shape_only(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    return args[0].known_shape, None


def _transposed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    shape = args[0].known_shape
    return (Size(reversed(shape)), args[0].known_dtype) if len(args) == 1 and len(shape) == 2 else UNKNOWN


def _unsqueeze(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    shape, dim = list(args[0].known_shape), args[1] if len(args) == 2 else kwargs.get("dim")
    if type(dim) is not int or not -len(shape) - 1 <= dim <= len(shape):
        return UNKNOWN
    shape.insert(dim % (len(shape) + 1), 1)
    return Size(shape), args[0].known_dtype


def _stack(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    tensors = _tensors(args[0]) if isinstance(args[0], (list, tuple)) else None
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if not tensors or any(t.known_shape != tensors[0].known_shape for t in tensors) or type(dim) is not int:
        return UNKNOWN
    shape = list(tensors[0].known_shape)
    if not -len(shape) - 1 <= dim <= len(shape):
        return UNKNOWN
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return Size(shape), _floating(tensors)


def _matmul(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
    tensors = _tensors(args)
    if not tensors or len(tensors) != 2 or any(len(t.known_shape) != 2 for t in tensors):
        return UNKNOWN
    return Size([tensors[0].known_shape[0], tensors[1].known_shape[1]]), _floating(tensors)


def indexed(shape: Size, parts: Sequence[Any]) -> Size | None:
    """The shape after an index of numbers, slices, `None` and `...`."""
    if not all(type(p) in (int, slice) or p is None or p is Ellipsis for p in parts):
        return None
    room = len(shape) - sum(type(p) in (int, slice) for p in parts)
    if room < 0 or sum(p is Ellipsis for p in parts) > 1:
        return None
    made: list[int] = []
    axis = 0
    for part in parts:
        if part is None:
            made.append(1)
        elif part is Ellipsis:
            made.extend(shape[axis : axis + room])
            axis += room
        else:
            if type(part) is slice:
                if any(v is not None and type(v) is not int for v in (part.start, part.stop, part.step)):
                    return None
                made.append(len(range(*part.indices(shape[axis]))))
            axis += 1
    return Size([*made, *shape[axis:]])


_FULL = ("sum", "mean", "prod", "amax", "amin", "std", "var")
_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        [
            "add",
            "sub",
            "subtract",
            "mul",
            "multiply",
            "div",
            "true_divide",
            "divide",
            "pow",
            "maximum",
            "minimum",
            "rsub",
            "rdiv",
            "rpow",
            "fmod",
            "remainder",
            "lerp",
            "clamp",
            "clip",
            "clamp_min",
            "clamp_max",
            "addcmul",
            "addcdiv",
        ],
        _elementwise,
    ),
    **dict.fromkeys(
        ["eq", "ne", "lt", "le", "gt", "ge", "isfinite", "isnan", "isinf", "logical_and", "logical_or", "logical_not"],
        _compare,
    ),
    **dict.fromkeys(_FULL, _reduce()),
    **dict.fromkeys(("all", "any"), _reduce(_BOOL)),
    **dict.fromkeys(("softmax", "nn.functional.softmax", "cumsum"), _shape_only),
    "where": _choose,
    "masked_fill": _choose,
    "norm": _norm,
    "reshape": _reshape,
    "view": _reshape,
    "flatten": _flatten,
    "ravel": _flatten,
    "contiguous": _same,
    "detach": _same,
    "clone": _same,
    "t": _transposed,
    "T": _transposed,
    "mT": _transposed,
    "unsqueeze": _unsqueeze,
    "matmul": _matmul,
    "mm": _matmul,
}


def _guarded(rule: Rule) -> Rule:
    def known(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Known:
        first = args[0] if args else None
        return rule(args, kwargs) if getattr(first, "known_shape", None) is not None else UNKNOWN

    return known


def _rule(op: Op) -> Rule | None:
    if op.name == "stack":
        return _stack
    rule = _RULES.get(op.name) or (_like if op.like else None)
    return _guarded(rule) if rule is not None else None


def fields_of(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Known]:
    """What is known of each of an operation's named results."""
    first: Any = args[0] if args else None
    if getattr(first, "known_shape", None) is None or op.fields != ("values", "indices"):
        return [UNKNOWN] * len(op.fields)
    if op.name == "sort":
        shape: Size | None = first.known_shape
    elif op.name in ("max", "min", "median", "mode"):
        shape = _reduce()(args, kwargs)[0]
    elif op.name == "kthvalue" and len(args) == 2:
        shape = _reduce()([first], {"dim": -1} | dict(kwargs))[0]
    else:
        shape = None
    return [(shape, first.known_dtype), (shape, DTYPES["int64"])]


RULES: tuple[Rule | None, ...] = tuple(_rule(op) for op in OPS)
