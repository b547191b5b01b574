"""The child's side of remote tensors: `Tensor`, a handle that feels like PyTorch's, and `run`, which asks the server.
Pure Python, no torch, no numpy.

Operations that give one tensor are sent without waiting; the program waits only where it needs a Python value. Shapes
and dtypes are known here where they are plain to see (`shapes`), and fetched once where they are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from selfdev_sandbox import shapes
from selfdev_sandbox.allowlist import NUMBER, OPS, Op
from selfdev_sandbox.contract import printable
from selfdev_sandbox.guards import WRITABLE, Missing
from selfdev_sandbox.operators import equip
from selfdev_sandbox.protocol import Call, Dots, Dtype, Read, Ref, Slice
from selfdev_sandbox.values import DEVICE, DTYPES, PYTHON_DTYPES, DType, Generator, Named, Size, as_dtype
from selfdev_sandbox.wire import CONNECTION, program_line

_SYNONYMS = {"axis": "dim", "keepdims": "keepdim"}
_IGNORED = frozenset(
    ("device", "layout", "requires_grad", "pin_memory", "memory_format", "non_blocking", "inplace", "out")
)
_VIEWS_OF_DICTS: tuple[type, ...] = (type({}.values()), type({}.keys()))
_TAKES_TENSORS = frozenset("tTx")


class _Row:
    """What the client looks up per operation, prepared once."""

    __slots__ = ("known", "op", "rule", "scalar", "single", "writes")

    def __init__(self, number: int, op: Op) -> None:
        self.op, self.writes, self.single, self.rule = op, op.writes, op.outputs == 1, shapes.RULES[number]
        self.known = {p.name for p in op.params}
        # Positions that take no tensor: PyTorch reads a one-element tensor there, so the client does.
        self.scalar = any(not _TAKES_TENSORS & set(p.kinds) for p in op.params)


def _encode(value: Any) -> Any:
    """A program's value as a `protocol.Value`."""
    kind = type(value)
    if kind is Tensor:
        return value.ref
    if value is None or kind is float or kind is bool or kind is str:
        return value
    if kind is int:
        if -(1 << 63) <= value < (1 << 63):
            return value
        raise OverflowError("int too large for a tensor operation")
    if kind is DType:
        return Dtype(value.name)
    if kind is Generator:
        return value.gen
    if isinstance(value, (tuple, list, range)) or kind in _VIEWS_OF_DICTS:
        return [_encode(item) for item in value]
    if kind is type and value in PYTHON_DTYPES:
        return Dtype(PYTHON_DTYPES[value])
    if isinstance(value, Iterator):
        return [_encode(item) for item in value]
    raise TypeError(f"an argument of type {kind.__name__} is not accepted by tensor operations")


def _is_single(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call whose number of results depends on the arguments gives one tensor."""
    count = len(args) + len(kwargs)
    if op.name == "where":
        return count >= 3
    if op.name in ("max", "min"):
        return count == 1 or type(args[1] if len(args) > 1 else kwargs.get("other")) is Tensor
    return op.name in ("median", "nanmedian") and count == 1


def run(number: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Ask the server for operation `number`."""
    row = _ROWS[number]
    if kwargs:
        kwargs = _clean(row, kwargs)
    if row.scalar:
        args = _read_scalars(row.op, args)
    sent = [value.ref if type(value) is Tensor else _encode(value) for value in args]
    named = {name: _encode(value) for name, value in kwargs.items()} if kwargs else {}
    connection = CONNECTION
    if row.writes:
        connection.call(number, 0, sent, named)
        return args[0] if args else kwargs["input"]
    if row.single or _is_single(row.op, args, kwargs):
        handle = connection.next_handle
        connection.next_handle = handle + 1
        connection.call(number, handle, sent, named)
        rule = row.rule
        return Tensor(handle) if rule is None else Tensor(handle, *rule(args, kwargs))
    if row.op.fields:
        return _run_named(number, row.op, sent, named, shapes.fields_of(row.op, args, kwargs))
    return _run_and_wait(number, row.op, sent, named)


def _run_named(number: int, op: Op, sent: list[Any], named: dict[str, Any], known: Sequence[shapes.Known]) -> Named:
    """Several results, as many as the row has names: no need to wait."""
    connection = CONNECTION
    handle = connection.next_handle
    connection.next_handle = handle + len(known)
    connection.call(number, handle, sent, named)
    result = Named(Tensor(handle + i, *each) for i, each in enumerate(known))
    result.fields = op.fields
    return result


def _run_and_wait(number: int, op: Op, sent: list[Any], named: dict[str, Any]) -> Any:
    connection = CONNECTION
    handle = connection.next_handle
    reply = connection.ask(Call(number, handle, program_line(), True, sent, named))
    connection.next_handle = handle + len(reply.specs)
    made = [Tensor(handle + i, Size(s.shape), DTYPES.get(s.dtype)) for i, s in enumerate(reply.specs)]
    if not reply.many:
        return made[0] if made else None
    return tuple(made)


def _clean(row: _Row, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Names as the table has them, without those that mean nothing here."""
    op, known = row.op, row.known
    out = {}
    for name, value in kwargs.items():
        name = _SYNONYMS.get(name, name) if name not in known else name
        if name == "dtype" and value is None:
            continue
        if isinstance(value, Iterator):
            value = list(value)  # keeps its tensors alive until the call is sent
        if name in known:
            out[name] = value
        elif name == "self" and op.params[0].name == "input":
            out["input"] = value
        elif name not in _IGNORED:
            raise TypeError(f"{op.name}() got an unexpected keyword argument '{printable(name, 60)}'")
    return out


def _read_scalars(op: Op, args: Sequence[Any]) -> list[Any]:
    """Where PyTorch takes a one-element tensor for a number, read it. Iterators become lists, which keep their tensors
    alive until the call is sent."""
    made = list(args)
    for i, value in enumerate(made):
        kinds = getattr(op.parameter(i), "kinds", "t")
        if type(value) is Tensor:
            if not _TAKES_TENSORS & set(kinds):
                made[i] = int(value) if "i" in kinds or "l" in kinds else value.item()
        elif "l" in kinds and isinstance(value, (list, tuple)) and any(type(v) is Tensor for v in value):
            made[i] = [int(v) if type(v) is Tensor else v for v in value]
        elif isinstance(value, Iterator):
            made[i] = list(value)
    return made


class Tensor:
    """A handle to a tensor of the server. Methods of the allow-list are added below."""

    __slots__ = ("known_dtype", "known_shape", "ref")

    def __init__(self, handle: int, shape: Size | None = None, dtype: DType | None = None) -> None:
        self.ref, self.known_shape, self.known_dtype = Ref(handle), shape, dtype

    def __del__(self) -> None:
        CONNECTION.freed.append(self.ref.i)

    # What is known without the values.

    def _learn(self) -> None:
        spec = CONNECTION.ask(Read("meta", self.ref.i, program_line())).specs[0]
        self.known_shape, self.known_dtype = Size(spec.shape), DTYPES[spec.dtype]

    @property
    def shape(self) -> Size:
        if self.known_shape is None:
            self._learn()
        assert self.known_shape is not None
        return self.known_shape

    @property
    def dtype(self) -> DType:
        if self.known_dtype is None:
            self._learn()
        assert self.known_dtype is not None
        return self.known_dtype

    ndim = property(lambda self: len(self.shape))
    device = property(lambda self: DEVICE[0])
    data = property(lambda self: self.detach())
    T = property(lambda self: run(NUMBER["o", "T"], (self,), {}))
    H = property(lambda self: run(NUMBER["o", "mT"], (self,), {}))
    mT = property(lambda self: run(NUMBER["o", "mT"], (self,), {}))
    requires_grad = property(lambda self: False)
    grad = property(lambda self: None)
    grad_fn = property(lambda self: None)
    is_cuda = property(lambda self: DEVICE[0].type == "cuda")
    is_cpu = property(lambda self: DEVICE[0].type == "cpu")
    is_leaf = property(lambda self: True)
    is_sparse = property(lambda self: False)
    itemsize = property(lambda self: self.dtype.itemsize)
    nbytes = property(lambda self: self.numel() * self.dtype.itemsize)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return self.shape.numel()

    def element_size(self) -> int:
        return self.dtype.itemsize

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        return False

    def stride(self, dim: int | None = None) -> Any:
        strides: Any = tuple(CONNECTION.ask(Read("strides", self.ref.i, program_line())).value)  # type: ignore[arg-type]
        return strides if dim is None else strides[dim]

    def is_contiguous(self, *_args: Any, **_kwargs: Any) -> bool:
        """Whether the elements lie in order, as PyTorch tells it."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride()), strict=True):
            if size != 1 and stride != step:
                return not self.numel()
            step *= size
        return True

    # Values.

    def item(self) -> Any:
        return CONNECTION.ask(Read("item", self.ref.i, program_line())).value

    def tolist(self) -> Any:
        reply = CONNECTION.ask(Read("list", self.ref.i, program_line()))
        return _nest(reply.value, reply.specs[0].shape)

    def __bool__(self) -> bool:
        if self.known_shape is not None and self.known_shape.numel() != 1:
            raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    __index__ = __int__
    __trunc__ = __int__

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))  # type: ignore[attr-defined]

    def __reversed__(self) -> Any:
        return self.flip(0) if self.shape else self  # type: ignore[attr-defined]

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if not self.shape else repr(self)

    def __repr__(self) -> str:
        return f"tensor({self.item()})" if not self.shape else f"tensor(shape={list(self.shape)}, dtype={self.dtype})"

    __hash__ = object.__hash__

    # Items.

    def __getitem__(self, key: Any) -> Tensor:
        made: Tensor = run_index(NUMBER["o", "getitem"], self, key)
        return made

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            value = tensor(value, dtype=self.dtype)
        run_index(NUMBER["o", "setitem"], self, key, value)

    def __round__(self, digits: int = 0) -> Any:
        return self.round(decimals=digits)  # type: ignore[attr-defined]

    # Conversions.

    def to(self, *args: Any, dtype: Any = None, copy: bool = False, **_ignored: Any) -> Tensor:
        for value in args:
            if type(value) is Tensor:
                dtype = value.dtype
            elif as_dtype(value) is not None:
                dtype = value
        target = as_dtype(dtype)
        if target is None and not copy:
            return self
        made: Tensor = run(NUMBER["o", "to"], (self, target or self.dtype, copy), {})
        made.known_shape, made.known_dtype = self.known_shape, target
        return made

    def type(self, dtype: Any = None) -> Any:
        return str(self.dtype) if dtype is None else self.to(dtype)

    def cpu(self, *_args: Any, **_kwargs: Any) -> Tensor:
        return self

    cuda = cpu
    requires_grad_ = detach_ = cpu

    def copy_(self, source: Any, non_blocking: bool = False) -> Tensor:
        source = source if type(source) is Tensor else tensor(source)
        run(NUMBER["o", "copy"], (self, source), {})
        return self

    def numpy(self, *_args: Any, **_kwargs: Any) -> Any:
        raise Missing("Tensor.numpy is not available here; stay with torch operations or use .tolist()")

    def where(self, condition: Any, other: Any) -> Tensor:
        made: Tensor = run(NUMBER["t", "where"], (condition, self, other), {})
        return made

    def equal(self, other: Tensor) -> bool:
        return equal(self, other)

    def allclose(self, other: Tensor, *args: Any, **kwargs: Any) -> bool:
        return bool(self.isclose(other, *args, **kwargs).all())  # type: ignore[attr-defined]

    def new_tensor(self, data: Any, dtype: Any = None, **_ignored: Any) -> Tensor:
        return tensor(data, dtype=dtype or self.dtype)

    def __deepcopy__(self, memo: Any) -> Tensor:
        made: Tensor = self.clone()  # type: ignore[attr-defined]
        return made


def _nest(flat: Any, shape: Sequence[int]) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return list(flat)
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nest(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def equal(a: Tensor, b: Tensor) -> bool:
    """`torch.equal`."""
    return a.shape == b.shape and bool((a == b).all())  # type: ignore[attr-defined]


def run_index(number: int, target: Tensor, key: Any, *value: Any) -> Any:
    """getitem and setitem: the index goes as a list of slices, numbers, tensors."""
    parts = [_part(part) for part in (key if type(key) is tuple else (key,))]
    sent = [target.ref, [_encode_part(part) for part in parts], *(_encode(v) for v in value)]
    connection = CONNECTION
    if value:
        connection.call(number, 0, sent, {})
        return target
    handle = connection.next_handle
    connection.next_handle = handle + 1
    connection.call(number, handle, sent, {})
    known = target.known_shape
    shape = shapes.indexed(known, parts) if known is not None else None
    return Tensor(handle, shape, target.known_dtype)


def _part(part: Any) -> Any:
    """One part of an index; lists become tensors, which must live until the call is sent."""
    if isinstance(part, (list, tuple, range)):
        return tensor(list(part), dtype=None if len(part) else DTYPES["int64"])
    if type(part) is float or type(part) is str:
        raise IndexError("only integers, slices (`:`), ellipsis (`...`), None and tensors are valid indices")
    return part


def _encode_part(part: Any) -> Any:
    if type(part) is slice:
        return Slice(*(None if v is None else int(v) for v in (part.start, part.stop, part.step)))
    return Dots() if part is Ellipsis else _encode(part)


def tensor(data: Any, dtype: Any = None, **_ignored: Any) -> Tensor:
    """`torch.tensor`: nested lists go as flat numbers and a shape."""
    if type(data) is Tensor:
        return data.to(dtype, copy=True)
    flat: list[Any] = []
    kinds: list[DType] = []
    shape = _flatten(data, flat, kinds)
    if dtype is None and kinds and len(kinds) == len(flat):
        dtype = kinds[0]
    made: Tensor = run(NUMBER["o", "tensor"], (flat, shape), {"dtype": dtype} if dtype is not None else {})
    made.known_shape, made.known_dtype = Size(shape), as_dtype(dtype)
    return made


def _flatten(data: Any, flat: list[Any], kinds: list[DType]) -> list[int]:
    if type(data) is Tensor:
        kinds.extend([data.dtype] * data.numel())
        values = data.tolist()
        return _flatten(values, flat, []) if data.shape else (flat.append(values) or [])  # type: ignore[func-returns-value]
    if not isinstance(data, (list, tuple, range)):
        if type(data) not in (int, float, bool):
            raise TypeError(f"torch.tensor cannot take a {type(data).__name__}")
        flat.append(data)
        return []
    shapes = [_flatten(item, flat, kinds) for item in data]
    if any(s != shapes[0] for s in shapes):
        raise ValueError("expected sequences of equal length in a nested list of numbers")
    return [len(shapes), *(shapes[0] if shapes else [])]


_ROWS = [_Row(number, op) for number, op in enumerate(OPS)]
equip(Tensor, run)
WRITABLE.add(Tensor)
