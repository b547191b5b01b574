"""The tensor server: runs allow-listed operations for one program, in the trusted process.

It believes nothing the child sends. A `Call` is checked against its row of the allow-list (kinds of arguments, known
handles, index ranges), its output is bounded before it runs, the budgets are charged, and only then the real PyTorch
function is called. Errors of PyTorch go back to the program; broken budgets and broken rules end it (`Ended`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from selfdev_sandbox import sizes
from selfdev_sandbox.allowlist import OPS, Op, Param
from selfdev_sandbox.contract import Limits, OpRecord, Status, printable
from selfdev_sandbox.memory import TensorMemory
from selfdev_sandbox.protocol import Call, Dots, Dtype, Free, Gen, Raised, Read, Ref, Reply, Slice, Spec, Sync
from selfdev_sandbox.rules import CREATES, FUNCTIONS, Randomness

DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
_KINDS: dict[str, tuple[type, ...]] = {
    "t": (Ref,),
    "n": (int, float, bool),
    "i": (int,),
    "b": (bool, int),
    "l": (int, list),
    "L": (list,),
    "d": (Dtype,),
    "s": (str,),
    "T": (list, Ref),
    "g": (Gen,),
    "x": (list,),
}
_TYPES = {kinds: tuple({t for k in kinds for t in _KINDS[k]}) for kinds in {p.kinds for op in OPS for p in op.params}}
_INNER: dict[str, tuple[type, ...]] = {
    "l": (int, list, bool),
    "L": (int, float, bool),
    "T": (Ref,),
    "x": (int, bool, type(None), Ref, Slice, Dots),
}


_MAX_PIECES = 65_536  # tensors from one operation
_MAX_DIMS = 64
_TRACE_VALUES = 2_000_000


class Ended(Exception):
    """The program is over: a budget or a rule is broken."""

    def __init__(self, status: Status, message: str, line: int) -> None:
        super().__init__(message)
        self.status, self.message, self.line = status, message, line


class ArgumentError(TypeError):
    """An argument of a kind that the operation does not take."""


class TensorServer:
    """State of one run: memory, budgets, randomness, trace."""

    def __init__(self, limits: Limits, budgets: tuple[int, int, float], seed: int, device: torch.device) -> None:
        self.limits = limits
        self.live_limit, self.moved_limit, self.flops_limit = budgets
        self.device = device
        self.memory = TensorMemory()
        self.random = Randomness(seed, device)
        self.operations = self.moved = self.round_trips = 0
        self.flops = 0.0
        self.trace: list[OpRecord] = []
        self.trace_room = _TRACE_VALUES  # long literals would fill the server's memory
        self.failed: Raised | None = None  # an error the program has not seen yet; operations are skipped until it has

    def handle(self, message: Call | Read | Free | Sync) -> Reply | Raised | None:
        """Serve one message; an answer goes back where the program waits for one."""
        kind = type(message)
        if kind is Call:
            return self._call(message)  # type: ignore[arg-type]
        if kind is Free:
            self.memory.free(message.handles)  # type: ignore[union-attr]
            return None
        self.round_trips += 1
        if self.failed is not None:
            return self._surface()
        return self._read(message) if isinstance(message, Read) else Reply()

    def _surface(self) -> Raised:
        error, self.failed = self.failed, None
        assert error is not None
        return error

    # Operations.

    def _call(self, call: Call) -> Reply | Raised | None:
        if call.wait:
            self.round_trips += 1
        if self.failed is not None:
            return self._surface() if call.wait else None
        if not 0 <= call.op < len(OPS):
            raise Ended(Status.VIOLATION, "an operation that does not exist was asked for", call.line)
        op = OPS[call.op]
        try:
            result = self._run(op, call)
            return self._keep(op, call, result)
        except Ended:
            raise
        except torch.OutOfMemoryError:
            raise Ended(Status.MEMORY, f"out of device memory in {op.name}", call.line) from None
        except Exception as error:
            self.failed = _raised(op, error, call.line)
        return self._surface() if call.wait else None

    def _run(self, op: Op, call: Call) -> Any:
        """Check, charge, run."""
        args, kwargs = self._arguments(op, call)
        self.operations += 1
        if self.operations > self.limits.operations:
            raise Ended(Status.TIMEOUT, f"more than {self.limits.operations} tensor operations", call.line)
        function = CALLS[call.op]
        self._charge(op, args, kwargs, call)  # first: even looking at a tensor of 2**50 elements takes for ever
        if op.indices:
            self._check_indices(op, args, kwargs)
        if op.writes:
            target = call.args[0] if call.args else call.kwargs.get("input")
            if not isinstance(target, Ref):
                raise ArgumentError("the first argument must be a tensor")
            self.memory.make_writable(target.i)
            args, kwargs = self._arguments(op, call)  # the same handles, re-based
        if op.name in CREATES:
            kwargs["device"] = self.device
        if op.random or op.name == "seed_generator":
            return function(self.random, *args, **kwargs)
        return function(*args, **kwargs)

    def _arguments(self, op: Op, call: Call) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = [], {}
        for i, value in enumerate(call.args):
            param = op.parameter(i)
            if param is None:
                raise ArgumentError(f"takes {len(op.params)} arguments but {len(call.args)} were given")
            args.append(self._value(param, value, call))
        for name, value in call.kwargs.items():
            param = next((p for p in op.params if p.name == name), None)
            if param is None:
                raise ArgumentError(f"got an unexpected keyword argument '{printable(name, 40)}'")
            kwargs[name] = self._value(param, value, call)
        return args, kwargs

    def _value(self, param: Param, value: Any, call: Call) -> Any:
        """A message's value as PyTorch takes it, if its kind is allowed here."""
        kind = type(value)
        if value is not None and kind not in _TYPES[param.kinds]:
            raise ArgumentError(f"argument '{param.name}' cannot be a {_KIND_NAMES.get(kind, kind.__name__)}")
        if kind is Ref:
            return self._tensor(value.i, call.line)
        if kind is Dtype:
            return self._dtype(value)
        if kind is Gen:
            return self.random.generator(value.i)
        return self._list(param, value, call) if kind is list else value

    def _list(self, param: Param, value: list[Any], call: Call) -> Any:
        allowed = next(_INNER[k] for k in param.kinds if k in _INNER)
        made = []
        for item in value:
            if type(item) not in allowed:
                raise ArgumentError(
                    f"argument '{param.name}' cannot hold a {_KIND_NAMES.get(type(item), type(item).__name__)}"
                )
            if type(item) is list and not all(type(inner) is int for inner in item):
                raise ArgumentError(f"argument '{param.name}' must hold integers")
            made.append(self._tensor(item.i, call.line) if type(item) is Ref else _plain(item))
        return made

    def _tensor(self, handle: int, line: int) -> torch.Tensor:
        tensor = self.memory.tensors.get(handle)
        if tensor is None:
            raise Ended(Status.VIOLATION, "a tensor that does not exist was asked for", line)
        return tensor

    def _dtype(self, value: Dtype) -> torch.dtype:
        dtype: torch.dtype | None = DTYPES.get(value.n)
        if dtype is None:
            raise ArgumentError(f"the dtype '{printable(value.n, 40)}' is not available")
        return dtype

    def _check_indices(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> None:
        if op.indices == "index" and op.name in ("getitem", "setitem"):
            for axis, index in sizes.indexed_axes(args[0], args[1]):
                sizes.check_range(index, args[0].shape[axis], negative=True)
            return
        bound = dict(zip((p.name for p in op.params), args, strict=False)) | kwargs
        place: Any = bound.get(op.indices)
        index, tensor, dim = place, bound.get("input"), bound.get("dim")
        if not isinstance(index, torch.Tensor) or not isinstance(tensor, torch.Tensor):
            return
        if dim is None:
            sizes.check_range(index, tensor.numel(), negative=op.name == "take")
        elif tensor.dim() and -tensor.dim() <= dim < tensor.dim():
            sizes.check_range(index, tensor.shape[dim], negative=False)

    def _charge(self, op: Op, args: list[Any], kwargs: dict[str, Any], call: Call) -> None:
        """Charge the budgets before anything is looked at or allocated."""
        if sizes.pieces(op, args, kwargs) > _MAX_PIECES:
            raise ArgumentError(f"would give more than {_MAX_PIECES} tensors")
        if op.size == "view" and not op.writes:
            return
        tensors = sizes.tensors_in([*args, *kwargs.values()])
        read = sum(sizes.nbytes(t) for t in tensors)
        self._charge_moved(op, read, call.line)
        made = self._bytes_made(op, args, kwargs, tensors, call)
        if self.memory.live + made > self.live_limit:
            needs = f"{op.name} needs {_mib(made)} beside {_mib(self.memory.live)} in use"
            raise Ended(Status.MEMORY, f"{needs}; the limit is {_mib(self.live_limit)}", call.line)
        self._charge_moved(op, made, call.line)
        self.flops += sizes.flops(op, args, kwargs, read + made)
        if self.flops > self.flops_limit:
            text = f"more than {self.flops_limit:.2g} floating-point operations, at {op.name}"
            raise Ended(Status.TIMEOUT, text, call.line)

    def _charge_moved(self, op: Op, amount: int, line: int) -> None:
        self.moved += amount
        if self.moved > self.moved_limit:
            text = f"more than {_mib(self.moved_limit)} of tensor data moved, at {op.name}"
            raise Ended(Status.TIMEOUT, text, line)

    def _bytes_made(
        self, op: Op, args: list[Any], kwargs: dict[str, Any], tensors: list[torch.Tensor], call: Call
    ) -> int:
        if op.writes:
            first = call.args[0] if call.args else None
            return self.memory.copy_bytes(first.i) if isinstance(first, Ref) else 0
        made = sizes.output_bytes(op, args, kwargs)
        if op.name == "einsum" and len(tensors) > 2:  # intermediate results
            made = max(made, int(min(sizes.HUGE, 4 * sizes.einsum_work(op, args))))
        return made

    def _keep(self, op: Op, call: Call, result: Any) -> Reply | None:
        """Give the results their handles."""
        single = isinstance(result, torch.Tensor)
        made = [] if op.writes else [result] if single else _tensors_of(result)
        if call.wait != (not single and not op.writes) and not (call.wait and single):
            raise RuntimeError(f"{op.name} gave several tensors where one was expected")
        if made and (call.out < 1 or any(call.out + i in self.memory.tensors for i in range(len(made)))):
            raise Ended(Status.VIOLATION, "a handle was used twice", call.line)
        for i, tensor in enumerate(made):
            if tensor.dim() > _MAX_DIMS:
                raise RuntimeError(f"{op.name} gives {tensor.dim()} dimensions; at most {_MAX_DIMS} are supported")
            if tensor.dtype not in _NAME_OF:
                raise TypeError(f"{op.name} gives {tensor.dtype}, which is not available")
            self.memory.add(call.out + i, tensor)
        if self.memory.live > self.live_limit:
            raise Ended(Status.MEMORY, f"more than {_mib(self.live_limit)} of tensor memory, at {op.name}", call.line)
        self._record(op.name, call.args, call.kwargs, tuple(range(call.out, call.out + len(made))), call.line)
        return Reply(None, [self._spec(t) for t in made], not single) if call.wait else None

    def _record(self, name: str, args: Any, kwargs: Any, outputs: tuple[int, ...], line: int) -> None:
        self.trace_room -= 1 + sum(len(value) for value in args if type(value) is list)
        if len(self.trace) < self.limits.trace_operations and self.trace_room > 0:
            self.trace.append(OpRecord(name, args, kwargs, outputs, line))

    # Values.

    def _spec(self, tensor: torch.Tensor) -> Spec:
        return Spec(list(tensor.shape), _NAME_OF[tensor.dtype])

    def _read(self, read: Read) -> Reply | Raised:
        tensor = self._tensor(read.i, read.line)
        if read.what == "meta":
            return Reply(None, [self._spec(tensor)])
        if read.what not in ("item", "list"):
            raise Ended(Status.VIOLATION, "an unknown value was asked for", read.line)
        if read.what == "item":
            if tensor.numel() != 1:
                text = f"a Tensor with {tensor.numel()} elements cannot be converted to Scalar"
                return Raised("RuntimeError", text, read.line)
            value: Any = tensor.item()
        else:
            if tensor.numel() > self.limits.read_elements:
                text = f"tolist() of {tensor.numel()} elements; at most {self.limits.read_elements} can be read"
                return Raised("RuntimeError", text, read.line)
            value = tensor.reshape(-1).tolist()
        self._record("read", [Ref(read.i), read.what], {}, (), read.line)
        return Reply(value, [self._spec(tensor)])


_KIND_NAMES: dict[type, str] = {
    Ref: "tensor",
    Dtype: "dtype",
    Gen: "generator",
    Slice: "slice",
    Dots: "'...'",
    str: "string",
}


def _plain(item: Any) -> Any:
    if type(item) is Slice:
        return slice(item.a, item.b, item.c)
    return Ellipsis if type(item) is Dots else item


def _tensors_of(result: Any) -> list[torch.Tensor]:
    if result is None:
        return []
    return [item for item in result if isinstance(item, torch.Tensor)]


def _mib(size: float) -> str:
    return f"{size / (1 << 20):.4g} MiB"


def _raised(op: Op, error: Exception, line: int) -> Raised:
    """PyTorch's error for the program: its first line, with the operation's name."""
    text = str(error).strip().split("\n")[0]
    kind = type(error).__name__
    if isinstance(error, ArgumentError):
        kind, text = "TypeError", f"{op.name}(): {text}"
    elif op.name.split(".")[-1].rstrip("_") not in text:
        text = f"{op.name}: {text}"
    known = (
        "RuntimeError",
        "ValueError",
        "IndexError",
        "TypeError",
        "NotImplementedError",
        "ZeroDivisionError",
        "OverflowError",
    )
    kind = "LinAlgError" if kind in ("LinAlgError", "_LinAlgError") else kind if kind in known else "RuntimeError"
    return Raised(kind, printable(text, 400), line)


def _resolve(op: Op) -> Callable[..., Any]:
    """The PyTorch function behind a row. Methods win: they take sizes one by one."""
    special = FUNCTIONS.get(op.name)
    if special is not None:
        return special
    *path, name = op.name.split(".")
    if path:
        place = torch.linalg if path == ["linalg"] else torch.nn.functional
        return getattr(place, name)  # type: ignore[no-any-return]
    if op.forms == "t" or not hasattr(torch.Tensor, name) or (hasattr(torch, name) and not op.rest):
        return getattr(torch, name)  # type: ignore[no-any-return]
    return getattr(torch.Tensor, name)  # type: ignore[no-any-return]


CALLS: tuple[Callable[..., Any], ...] = tuple(_resolve(op) for op in OPS)
