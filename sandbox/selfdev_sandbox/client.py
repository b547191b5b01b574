"""The child's side of remote tensors: the connection to the tensor server, and `Tensor`, a handle that feels like
PyTorch's. Pure Python, no torch, no numpy.

Operations that give one tensor are sent without waiting; the program waits only where it needs a Python value. Shapes
and dtypes are known here for inputs and most elementwise results, and fetched once where they are not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from selfdev_sandbox import protocol
from selfdev_sandbox.allowlist import NUMBER, OPS, Op
from selfdev_sandbox.contract import printable
from selfdev_sandbox.guards import WRITABLE, Missing, Token, register, violation
from selfdev_sandbox.policy import FILENAME
from selfdev_sandbox.protocol import Call, Dots, Dtype, Gen, Raised, Read, Ref, Reply, Slice, Sync

_FLUSH = 4096  # bytes buffered before a write: enough to share system calls, little enough to keep the server busy


class LinAlgError(RuntimeError):
    """`torch.linalg.LinAlgError`."""


_ERRORS: dict[str, type[Exception]] = {
    e.__name__: e
    for e in (
        RuntimeError,
        ValueError,
        IndexError,
        TypeError,
        NotImplementedError,
        KeyError,
        ZeroDivisionError,
        OverflowError,
        AssertionError,
        LinAlgError,
    )
}


class Connection:
    """Frames out (buffered) and in."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.buffer = bytearray()
        self.received = bytearray()
        self.freed: list[int] = []  # handles to give back with the next message
        self.next_handle = 1
        self.pending = False  # operations sent whose errors are not known yet
        self.error: tuple[Exception, int] | None = None  # the last remote error and its line

    def flush(self) -> None:
        view = memoryview(bytes(self.buffer))
        self.buffer.clear()
        while view:
            view = view[os.write(self.fd, view) :]

    def send(self, message: Any) -> None:
        if self.freed:
            self.buffer += protocol.frame(protocol.Free(self.freed))
            self.freed = []
        data = protocol.frame(message)
        if len(data) > protocol.MAX_FRAME:
            raise ValueError("a tensor literal is too large; build tensors with torch operations")
        self.buffer += data
        if len(self.buffer) > _FLUSH:
            self.flush()

    def receive(self) -> bytes:
        """One frame's body."""
        data = self.received
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
            more = os.read(self.fd, 65536)
            if not more:
                os._exit(3)
            data += more
        size = 4 + int.from_bytes(data[:4], "little")
        body = bytes(data[4:size])
        del data[:size]
        return body

    def ask(self, message: Any) -> Reply:
        """Send, wait, and raise what the server raised."""
        self.send(message)
        self.flush()
        answer: Reply | Raised = protocol.decode_answer(self.receive())
        self.pending = False
        if isinstance(answer, Raised):
            error = _ERRORS.get(answer.kind, RuntimeError)(answer.error)
            self.error = (error, answer.line)
            raise error
        return answer

    def sync(self) -> None:
        """Surface the error of any operation sent so far."""
        if self.pending:
            self.ask(Sync())


CONNECTION = Connection(-1)


def connect(fd: int) -> Connection:
    """Use this descriptor from now on."""
    global CONNECTION
    CONNECTION = Connection(fd)
    return CONNECTION


def program_line() -> int:
    """The line of the program that is running, 0 outside of it."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == FILENAME:
            return frame.f_lineno or 0
        frame = frame.f_back  # type: ignore[assignment]
    return 0


class DType:
    """A dtype: one object per name."""

    __slots__ = ("is_complex", "is_floating_point", "itemsize", "name")

    def __init__(self, name: str, itemsize: int, floating: bool) -> None:
        self.name, self.itemsize, self.is_floating_point, self.is_complex = name, itemsize, floating, False

    def __repr__(self) -> str:
        return f"torch.{self.name}"


DTYPES = {
    name: DType(name, size, name.startswith(("float", "bfloat")))
    for name, size in (
        ("float32", 4),
        ("float64", 8),
        ("float16", 2),
        ("bfloat16", 2),
        ("int64", 8),
        ("int32", 4),
        ("int16", 2),
        ("int8", 1),
        ("uint8", 1),
        ("bool", 1),
    )
}
DTYPE_ALIASES = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}
_PYTHON_DTYPES = {float: "float64", int: "int64", bool: "bool"}


class Device:
    """A device: names only, everything lives where the server is."""

    __slots__ = ("index", "type")

    def __init__(self, text: Any = "cpu", index: int | None = None) -> None:
        name, _, number = str(text).partition(":")
        if name not in ("cpu", "cuda", "mps", "meta"):
            raise RuntimeError(
                f"Expected one of cpu, cuda device type at start of device string: {printable(name, 40)}"
            )
        self.type, self.index = name, int(number) if number.isdigit() else index

    def __repr__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


DEVICE = [Device("cpu")]  # the device that tensors report


class Size(tuple[int, ...]):
    """A shape."""

    __slots__ = ()

    def numel(self) -> int:
        total = 1
        for size in self:
            total *= size
        return total

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"


class Generator:
    """A random generator of the server, derived from the run's seed until `manual_seed`."""

    __slots__ = ("gen", "start")
    count = 0

    def __init__(self, device: Any = None, number: int | None = None) -> None:
        if number is None:
            Generator.count += 1
            number = Generator.count
        self.gen, self.start = Gen(number), 0

    def manual_seed(self, seed: int) -> Generator:
        """Seed it; the same seed gives the same numbers as in PyTorch."""
        self.start = int(seed) & ((1 << 63) - 1)
        run(NUMBER["o", "seed_generator"], (self, self.start), {})
        return self

    def initial_seed(self) -> int:
        return self.start

    def seed(self) -> int:
        """PyTorch takes entropy here; this gives a fixed seed."""
        return self.manual_seed(self.gen.i).start

    device = property(lambda self: DEVICE[0])


class Named(tuple[Any, ...]):
    """Several results with names."""

    fields: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name in self.fields:
            return self[self.fields.index(name)]
        raise Missing(f"{name} is not available here")


_SYNONYMS = {"axis": "dim", "keepdims": "keepdim"}
_IGNORED = frozenset(
    ("device", "layout", "requires_grad", "pin_memory", "memory_format", "non_blocking", "inplace", "out")
)
_BINARY = frozenset(
    [
        "add",
        "sub",
        "subtract",
        "mul",
        "multiply",
        "div",
        "true_divide",
        "pow",
        "maximum",
        "minimum",
        "rsub",
        "rdiv",
        "fmod",
        "remainder",
    ]
)
_COMPARE = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])


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
    if isinstance(value, (tuple, list, range)) or kind in (type({}.values()), type({}.keys())):
        return [_encode(item) for item in value]
    if kind is type and value in _PYTHON_DTYPES:
        return Dtype(_PYTHON_DTYPES[value])
    if isinstance(value, Iterator):
        return [_encode(item) for item in value]
    raise TypeError(f"an argument of type {kind.__name__} is not accepted by tensor operations")


def as_dtype(value: Any) -> DType | None:
    """A dtype argument: ours, or Python's float, int, bool."""
    if type(value) is DType:
        return value
    return DTYPES[_PYTHON_DTYPES[value]] if type(value) is type and value in _PYTHON_DTYPES else None


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
    op = OPS[number]
    if kwargs:
        kwargs = _clean(op, kwargs)
    sent = [value.ref if type(value) is Tensor else _encode(value) for value in args]
    named = {name: _encode(value) for name, value in kwargs.items()}
    _read_scalars(op, args, sent)
    connection = CONNECTION
    if op.writes:
        connection.send(Call(number, 0, program_line(), False, sent, named))
        connection.pending = True
        return args[0] if args else kwargs["input"]
    if op.outputs == 1 or _is_single(op, args, kwargs):
        handle = connection.next_handle
        connection.next_handle = handle + 1
        connection.send(Call(number, handle, program_line(), False, sent, named))
        connection.pending = True
        return Tensor(handle, *_predict(op, args, kwargs))
    return _run_and_wait(number, op, sent, named)


def _run_and_wait(number: int, op: Op, sent: list[Any], named: dict[str, Any]) -> Any:
    connection = CONNECTION
    handle = connection.next_handle
    reply = connection.ask(Call(number, handle, program_line(), True, sent, named))
    connection.next_handle = handle + len(reply.specs)
    made = [Tensor(handle + i, Size(s.shape), DTYPES.get(s.dtype)) for i, s in enumerate(reply.specs)]
    if not reply.many:
        return made[0] if made else None
    if op.fields and len(op.fields) == len(made):
        result = Named(made)
        result.fields = op.fields
        return result
    return tuple(made)


def _clean(op: Op, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Names as the table has them, without those that mean nothing here."""
    known = {p.name for p in op.params}
    out = {}
    for name, value in kwargs.items():
        name = _SYNONYMS.get(name, name) if name not in known else name
        if name == "dtype" and value is None:
            continue
        if name in known:
            out[name] = value
        elif name == "self" and op.params[0].name == "input":
            out["input"] = value
        elif name not in _IGNORED:
            raise TypeError(f"{op.name}() got an unexpected keyword argument '{printable(name, 60)}'")
    return out


def _read_scalars(op: Op, args: Sequence[Any], sent: list[Any]) -> None:
    """Where PyTorch takes a one-element tensor for a number, read it."""
    for i, value in enumerate(args):
        param = op.parameter(i)
        kinds = param.kinds if param is not None else "t"
        if type(value) is Tensor:
            if "t" not in kinds and "T" not in kinds and "x" not in kinds:
                sent[i] = int(value) if "i" in kinds or "l" in kinds else value.item()
        elif "l" in kinds and isinstance(value, (list, tuple)):
            sent[i] = [int(v) if type(v) is Tensor else s for v, s in zip(value, sent[i], strict=True)]


def _predict(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Size | None, DType | None]:
    """Shape and dtype of the result where they are plain to see."""
    first = args[0] if args else None
    if type(first) is not Tensor or first.known_shape is None:
        return None, None
    if op.like:
        dtype = as_dtype(kwargs.get("dtype")) or first.known_dtype
        return first.known_shape, dtype if dtype is not None and dtype.is_floating_point else None
    if len(args) == 2 and (op.name in _BINARY or op.name in _COMPARE):
        other = args[1]
        same = type(other) in (int, float) or (
            type(other) is Tensor and other.known_shape == first.known_shape and other.known_dtype is first.known_dtype
        )
        if same and op.name in _COMPARE:
            return first.known_shape, DTYPES["bool"]
        if same and first.known_dtype is not None and first.known_dtype.is_floating_point:
            return first.known_shape, first.known_dtype
    return None, None


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

    def is_contiguous(self) -> bool:
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
    requires_grad_ = cpu

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
    op = OPS[number]
    parts = key if type(key) is tuple else (key,)
    sent = [target.ref, [_index(part) for part in parts], *(_encode(v) for v in value)]
    connection = CONNECTION
    handle = 0 if op.writes else connection.next_handle
    connection.next_handle += 0 if op.writes else 1
    connection.send(Call(number, handle, program_line(), False, sent, {}))
    connection.pending = True
    return target if op.writes else Tensor(handle)


def _index(part: Any) -> Any:
    if part is Ellipsis:
        return Dots()
    if type(part) is slice:
        return Slice(*(None if v is None else int(v) for v in (part.start, part.stop, part.step)))
    if isinstance(part, (list, tuple, range)):
        return tensor(list(part), dtype=None if len(part) else DTYPES["int64"], keep=True).ref
    if type(part) is float or type(part) is str:
        raise IndexError("only integers, slices (`:`), ellipsis (`...`), None and tensors are valid indices")
    return _encode(part)


_KEPT: list[Tensor] = []  # index tensors made on the fly: freed only after the call that uses them is sent


def tensor(data: Any, dtype: Any = None, keep: bool = False, **_ignored: Any) -> Tensor:
    """`torch.tensor`: nested lists go as flat numbers and a shape."""
    if type(data) is Tensor:
        return data.to(dtype, copy=True)
    flat: list[Any] = []
    kinds: list[DType] = []
    shape = _flatten(data, flat, kinds)
    if dtype is None and kinds and len(kinds) == len(flat):
        dtype = kinds[0]
    made: Tensor = run(NUMBER["o", "tensor"], (flat, shape), {"dtype": dtype} if dtype is not None else {})
    made.known_shape = Size(shape)
    if keep:
        _KEPT.append(made)
        del _KEPT[:-64]
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


def _method(number: int) -> Callable[..., Any]:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return run(number, (self, *args), kwargs)

    return method


def _cast(name: str) -> Callable[[Tensor], Tensor]:
    return lambda self: self.to(DTYPES[name])


def _operator(name: str, form: str = "t") -> Callable[[Tensor, Any], Any]:
    number = NUMBER[form, name]

    def method(self: Tensor, other: Any) -> Any:
        if type(other) is not Tensor and type(other) not in (int, float, bool):
            return NotImplemented
        return run(number, (self, other), {})

    return method


def _unary(name: str) -> Callable[[Tensor], Any]:
    number = NUMBER["t", name]
    return lambda self: run(number, (self,), {})


_OPERATORS = {
    "__add__": "add",
    "__radd__": "add",
    "__sub__": "sub",
    "__mul__": "mul",
    "__rmul__": "mul",
    "__truediv__": "div",
    "__floordiv__": "floor_divide",
    "__mod__": "remainder",
    "__pow__": "pow",
    "__matmul__": "matmul",
    "__eq__": "eq",
    "__ne__": "ne",
    "__lt__": "lt",
    "__le__": "le",
    "__gt__": "gt",
    "__ge__": "ge",
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "__xor__": "bitwise_xor",
    "__rand__": "bitwise_and",
    "__ror__": "bitwise_or",
    "__rxor__": "bitwise_xor",
    "__rsub__": "rsub",
    "__lshift__": "bitwise_left_shift",
    "__rshift__": "bitwise_right_shift",
}
_REVERSED = {"__rtruediv__": "rdiv", "__rpow__": "rpow", "__rfloordiv__": "rfloordiv", "__rmod__": "rmod"}
_AUGMENTED = {
    "__iadd__": "add_",
    "__isub__": "sub_",
    "__imul__": "mul_",
    "__itruediv__": "div_",
    "__ifloordiv__": "floor_divide_",
    "__imod__": "remainder_",
    "__ipow__": "pow_",
    "__iand__": "bitwise_and_",
    "__ior__": "bitwise_or_",
    "__ixor__": "bitwise_xor_",
}


def _fill_class() -> None:
    """Add the allow-list's methods, the operators, and the names a program may use."""
    own = [name for name in vars(Tensor) if not name.startswith("_") and not name.startswith("known") and name != "ref"]
    table = [(op.name, n) for n, op in enumerate(OPS) if "m" in op.forms]
    for name, n in table:
        if name not in own:
            setattr(Tensor, name, _method(n))
    for dunder, name in _OPERATORS.items():
        setattr(Tensor, dunder, _operator(name))
    for dunder, name in _REVERSED.items():
        setattr(Tensor, dunder, _operator(name, "o"))
    for dunder, name in _AUGMENTED.items():
        setattr(Tensor, dunder, _operator(name, "m"))
    for dunder, name in (
        ("__neg__", "neg"),
        ("__abs__", "abs"),
        ("__invert__", "bitwise_not"),
        ("__pos__", "positive"),
    ):
        setattr(Tensor, dunder, _unary(name))
    casts = {**DTYPE_ALIASES, "bfloat16": "bfloat16", "bool": "bool", "char": "int8", "byte": "uint8"}
    for name, dtype in casts.items():
        setattr(Tensor, name, _cast(dtype))
    for alias, name in (("nelement", "numel"), ("ndimension", "dim"), ("absolute_", "abs_")):
        setattr(Tensor, alias, getattr(Tensor, name))
    register(Tensor, " ".join([*own, *casts, "nelement ndimension", *(name for name, _ in table)]))


_fill_class()
WRITABLE.add(Tensor)
register(Size, "numel count index")
register(DType, "is_floating_point itemsize is_complex")
register(Device, "type index")
register(Generator, "manual_seed initial_seed seed device")
register(Named, "count index " + " ".join(f for op in OPS for f in op.fields))

__all__ = [
    "CONNECTION",
    "Connection",
    "Device",
    "Generator",
    "Tensor",
    "Token",
    "connect",
    "run",
    "tensor",
    "violation",
]
