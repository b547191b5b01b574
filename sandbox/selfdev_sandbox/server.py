"""The tensor server: runs allow-listed operations for one program, in the trusted process.

It believes nothing the child sends. A `Call` is checked against its row of the allow-list (kinds of arguments, known
handles, index ranges), its output is bounded before it runs, the budgets are charged, and only then the real PyTorch
function is called. Errors of PyTorch go back to the program; broken budgets and broken rules end it (`Ended`).
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from selfdev_sandbox import measure, sizes
from selfdev_sandbox.allowlist import Op
from selfdev_sandbox.contract import Budgets, Limits, OpRecord, Status, printable
from selfdev_sandbox.memory import TensorMemory
from selfdev_sandbox.protocol import Call, Free, Raised, Read, Ref, Reply, Spec, Sync
from selfdev_sandbox.rows import NAME_OF, ROWS, ArgumentError, Arguments, Ended, Row
from selfdev_sandbox.rules import Randomness

_MAX_PIECES = 65_536  # tensors from one operation
_MAX_DIMS = 64
_TRACE_VALUES = 2_000_000
_LONG = 0.05  # estimated seconds from which an operation is worth a look at the clock
_SPEED = 2e10  # per second on a CPU: on the low side, since a started operation cannot be stopped
_ACCELERATOR = 2e12


class TensorServer:
    """State of one run: memory, budgets, randomness, trace."""

    def __init__(
        self,
        limits: Limits,
        budgets: Budgets,
        seed: int,
        device: torch.device,
        deadline: float = math.inf,  # by time.monotonic()
    ) -> None:
        self.limits = limits
        self.budgets = budgets
        self.device, self.deadline = device, deadline
        self.speed = _SPEED if device.type == "cpu" else _ACCELERATOR
        self.memory = TensorMemory()
        self.random = Randomness(seed, device)
        self.arguments = Arguments(self.memory, self.random)
        self.operations = self.moved = self.round_trips = 0
        self.flops = 0.0
        self.trace: list[OpRecord] = []
        self.trace_room = _TRACE_VALUES  # long literals would fill the server's memory
        self.trace_complete = True
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
        if call.free:
            self.memory.free(call.free)
        if call.wait:
            self.round_trips += 1
        if self.failed is not None:
            return self._surface() if call.wait else None
        if not 0 <= call.op < len(ROWS):
            raise Ended(Status.VIOLATION, "an operation that does not exist was asked for", call.line)
        row = ROWS[call.op]
        try:
            return self._keep(row.op, call, self._run(row, call))
        except Ended:
            raise
        except torch.OutOfMemoryError:
            raise Ended(Status.MEMORY, f"out of device memory in {row.op.name}", call.line) from None
        except Exception as error:
            op = row.op
            self.failed = _raised(op, error, call.line)
            self._record("raised", [op.name, *call.args], call.kwargs, (), call.line)
            self.trace_complete &= not (op.writes or op.random)  # what it changed before it failed is unknown
        return self._surface() if call.wait else None

    def _run(self, row: Row, call: Call) -> Any:
        """Check, charge, run."""
        args, kwargs = self.arguments.of(row, call)
        self.operations += 1
        if self.operations > self.budgets.operations:
            raise Ended(Status.TIMEOUT, f"more than {self.budgets.operations} tensor operations", call.line)
        self._charge(row, args, kwargs, call)  # first: even looking at a tensor of 2**50 elements takes for ever
        op = row.op
        if op.indices:
            self._check_indices(op, args, kwargs)
        if op.writes and self.memory.make_writable(_target(call)):
            args, kwargs = self.arguments.of(row, call)  # the same handles, re-based
        if row.creates:
            kwargs["device"] = self.device
        if row.draws:
            return row.function(self.random, *args, **kwargs)
        return row.function(*args, **kwargs)

    def _check_indices(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> None:
        if op.indices == "index" and op.name in ("getitem", "setitem"):
            for axis, index in measure.indexed_axes(args[0], args[1]):
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

    def _charge(self, row: Row, args: list[Any], kwargs: dict[str, Any], call: Call) -> None:
        """Charge the budgets before anything is looked at or allocated."""
        op = row.op
        if row.many and sizes.pieces(op, args, kwargs) > _MAX_PIECES:
            raise ArgumentError(f"would give more than {_MAX_PIECES} tensors")
        if row.view:
            return
        tensors = measure.tensors_in([*args, *kwargs.values()] if kwargs else args)
        read = 0
        for tensor in tensors:
            read += tensor.nbytes  # what is read: repeated elements count
        self._charge_moved(op, read, call.line)
        if row.same:
            made = sizes.same_bytes(op, tensors, args, kwargs)
        else:
            made = self._bytes_made(op, args, kwargs, tensors, call)
        if self.memory.live + made > self.budgets.live:
            needs = f"{op.name} needs {_mib(made)} beside {_mib(self.memory.live)} in use"
            raise Ended(Status.MEMORY, f"{needs}; the limit is {_mib(self.budgets.live)}", call.line)
        self._charge_moved(op, made, call.line)
        work = float(read + made) if row.linear else sizes.flops(op, args, kwargs, read + made)
        seconds = work * row.slow / self.speed
        if seconds > _LONG and seconds > self.deadline - time.monotonic():
            text = f"{op.name} would take longer than the time that is left"
            raise Ended(Status.TIMEOUT, text, call.line)
        self.flops += work
        if self.flops > self.budgets.flops:
            text = f"more than {self.budgets.flops:.2g} floating-point operations, at {op.name}"
            raise Ended(Status.TIMEOUT, text, call.line)

    def _charge_moved(self, op: Op, amount: int, line: int) -> None:
        self.moved += amount
        if self.moved > self.budgets.moved:
            text = f"more than {_mib(self.budgets.moved)} of tensor data moved, at {op.name}"
            raise Ended(Status.TIMEOUT, text, line)

    def _bytes_made(
        self, op: Op, args: list[Any], kwargs: dict[str, Any], tensors: list[torch.Tensor], call: Call
    ) -> int:
        if op.writes:
            return self.memory.copy_bytes(_target(call))
        made = sizes.output_bytes(op, args, kwargs)
        if op.name == "einsum" and len(tensors) > 2:  # intermediate results
            made = max(made, int(min(measure.HUGE, 4 * sizes.einsum_work(op, args))))
        return made

    def _keep(self, op: Op, call: Call, result: Any) -> Reply | None:
        """Give the results their handles."""
        single = isinstance(result, torch.Tensor)
        made = [] if op.writes else [result] if single else _tensors_of(result)
        if not call.wait and not single and made and len(made) != len(op.fields):
            raise RuntimeError(f"{op.name} gave {len(made)} tensors where {len(op.fields) or 1} were expected")
        out, memory = call.out, self.memory
        for i, tensor in enumerate(made):
            if out < 1 or out + i in memory.tensors:
                raise Ended(Status.VIOLATION, "a handle was used twice", call.line)
            if tensor.dim() > _MAX_DIMS:
                raise RuntimeError(f"{op.name} gives {tensor.dim()} dimensions; at most {_MAX_DIMS} are supported")
            if tensor.dtype not in NAME_OF:
                raise TypeError(f"{op.name} gives {tensor.dtype}, which is not available")
            memory.add(out + i, tensor)
        if memory.live > self.budgets.live:
            raise Ended(Status.MEMORY, f"more than {_mib(self.budgets.live)} of tensor memory, at {op.name}", call.line)
        outputs = (out,) if single and made else tuple(range(out, out + len(made)))
        self._record(op.name, call.args, call.kwargs, outputs, call.line, self._shares(call, outputs))
        return Reply(None, [self._spec(t) for t in made], not single) if call.wait else None

    def _record(
        self, name: str, args: Any, kwargs: Any, outputs: tuple[int, ...], line: int, shares: tuple[int, ...] = ()
    ) -> None:
        self.trace_room -= 1
        for value in args:
            if type(value) is list:
                self.trace_room -= len(value)
        if len(self.trace) < self.limits.trace_operations and self.trace_room > 0:
            self.trace.append(OpRecord(name, args, kwargs, outputs, line, shares))
        else:
            self.trace_complete = False

    def _shares(self, call: Call, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Per output, the argument whose memory it looks into, or 0."""
        slots = self.memory.slot_of
        for handle in outputs:
            if len(slots[handle].handles) != 1:
                break
        else:
            return ()
        given = [value.i for value in (*call.args, *call.kwargs.values()) if type(value) is Ref]
        found = []
        for i, handle in enumerate(outputs):
            same = [g for g in (*given[i : i + 1], *given) if slots[g] is slots[handle]]
            found.append(same[0] if same else 0)
        return tuple(found) if any(found) else ()

    # Values.

    def _spec(self, tensor: torch.Tensor) -> Spec:
        return Spec(list(tensor.shape), NAME_OF[tensor.dtype])

    def _read(self, read: Read) -> Reply | Raised:
        tensor = self.arguments.tensor(read.i, read.line)
        if read.what == "meta":
            self._record("read", [Ref(read.i), "meta"], {}, (), read.line)
            return Reply(None, [self._spec(tensor)])
        if read.what == "strides":
            self._record("read", [Ref(read.i), "meta"], {}, (), read.line)
            return Reply(list(tensor.stride()))
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
        return Reply(value, [self._spec(tensor)] if read.what == "list" else [])


_TOLD = frozenset(
    [
        "RuntimeError",
        "ValueError",
        "IndexError",
        "TypeError",
        "NotImplementedError",
        "ZeroDivisionError",
        "OverflowError",
        "LinAlgError",
    ]
)


def _target(call: Call) -> int:
    """The handle that a call writes to."""
    target = call.args[0] if call.args else call.kwargs.get("input")
    if type(target) is not Ref:
        raise ArgumentError("the first argument must be a tensor")
    return target.i


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
    if kind not in _TOLD:
        kind = "LinAlgError" if kind == "_LinAlgError" else "RuntimeError"
    return Raised(kind, printable(text, 400), line)
