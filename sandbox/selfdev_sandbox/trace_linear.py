"""The closed form of a trace: per parameter, the coefficients of the sources, where the result is a fixed linear
combination of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfdev_sandbox import linear_blocks as blocks
from selfdev_sandbox import sizes
from selfdev_sandbox.allowlist import OPS, Op
from selfdev_sandbox.contract import OpRecord
from selfdev_sandbox.linear_blocks import Block, NotLinear
from selfdev_sandbox.linear_rules import RULES, SMALL, Known, broadcast, filled, fit, is_zero, one_of, put, viewed
from selfdev_sandbox.memory import TensorMemory
from selfdev_sandbox.protocol import Call, Dots, Dtype, Ref, Slice
from selfdev_sandbox.rows import DTYPES, ROWS, Arguments
from selfdev_sandbox.rules import Randomness
from selfdev_sandbox.trace import Trace
from selfdev_sandbox.trace_flow import ROW_NUMBER, UNCHANGED, bound, canonical_name

_DEEP = 16  # views of views followed
_REGROUPED = frozenset(["view", "reshape", "flatten", "ravel", "squeeze", "unsqueeze", "unflatten"])  # same elements
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LinearForm:
    """result[name] = sum over sources i of coefficients[name][i] * task_vectors[i][name].

    Coefficients are what the program's constants give in float64 (constants that it puts into tensors are rounded to
    those tensors' dtype first, as in the run); the run itself rounds each step to its dtypes.
    """

    coefficients: dict[str, tuple[float, ...]]  # by parameter; one number per source

    @property
    def uniform(self) -> tuple[float, ...] | None:
        """The coefficients, if all parameters have the same."""
        first, *others = self.coefficients.values()
        return first if all(other == first for other in others) else None


def linear_form(trace: Trace) -> LinearForm | None:
    """The coefficients, or None where the result is not a fixed linear combination of the sources.

    None does not prove that there is none: only the ways of writing one that are listed in this module are seen.
    Programs that read data or draw random numbers give None even if the result happens to be linear.
    """
    if trace.reads_data or trace.draws:
        return None
    try:
        walk = _Walk(trace)
        for record in trace.records[:-1]:
            walk.add(record)
        return LinearForm({name: walk.coefficients(name, handle) for name, handle in trace.returned.items()})
    except (NotLinear, TypeError, ValueError, IndexError, KeyError, RuntimeError):
        return None  # the other errors are PyTorch's, about arguments that this module reads in its own way


View = tuple[Op, dict[str, Any]]


class _Walk:
    """Values of the trace's memory, one record after the other."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.state: dict[int, Known] = {}  # by root
        self.views: dict[int, tuple[int, tuple[View, ...]]] = {}  # handle -> root, views applied to it
        self.fixed: set[int] = set()  # roots that must keep their state
        if trace.roots != tuple(range(1, len(trace.roots) + 1)):
            raise NotLinear("inputs share memory")
        if not all(DTYPES[p.dtype].is_floating_point for p in trace.parameters):
            raise NotLinear("integers")
        for handle in range(1, len(trace.roots) + 1):
            _, position = divmod(handle - 1, len(trace.parameters))
            self._new(handle, blocks.source(handle, trace.parameters[position].shape))

    def _new(self, handle: int, value: Known) -> None:
        self.state[handle], self.views[handle] = value, (handle, ())

    def value(self, handle: int) -> Known:
        root, views = self.views[handle]
        value = self.state[root]
        for op, named in views:
            value = viewed(op, value, named)
        return value

    def coefficients(self, name: str, handle: int) -> tuple[float, ...]:
        value = self.value(handle)
        position = self.trace.names.index(name)
        shape = self.trace.parameters[position].shape
        if isinstance(value, Tensor):
            if not is_zero(value):
                raise NotLinear("a constant")
            return (0.0,) * self.trace.sources
        inputs = {1 + i * len(self.trace.parameters) + position: i for i in range(self.trace.sources)}
        live = {h: float(c) for h, c in value.terms.items() if c.dim() == 0}
        foreign = any(c.dim() or (h not in inputs and float(c) != 0) for h, c in value.terms.items())
        if value.order or value.shape != shape or foreign or not all(map(math.isfinite, live.values())):
            raise NotLinear("other elements")
        return tuple(live.get(handle, 0.0) for handle in inputs)

    def add(self, record: OpRecord) -> None:
        op = OPS[ROW_NUMBER[record.op]]
        named = bound(op, record)
        if op.writes:
            self._write(op, record, named)
            return
        if record.shares and len(record.outputs) == 1 and record.shares[0]:
            root, views = self.views[record.shares[0]]
            plain = {name: self._resolve(value) for name, value in named.items() if name != "input"}
            step = () if op.name in UNCHANGED else ((op, plain),)
            if len(views) > _DEEP:
                raise NotLinear("views of views")
            self.views[record.outputs[0]] = (root, (*views, *step))
            return
        made = self._made(op, record, {name: self._resolve(value) for name, value in named.items()})
        for handle, value in zip(record.outputs, made, strict=True):
            self._new(handle, value)
        if record.shares:  # several views at once, kept as copies: their memory must not be written to from here on
            self.fixed.update(record.outputs, (self.views[base][0] for base in record.shares if base))

    def _resolve(self, value: Any) -> Any:
        if type(value) is Ref:
            return self.value(value.i)
        if type(value) is Slice:
            return slice(value.a, value.b, value.c)
        if type(value) is Dots:
            return Ellipsis
        if type(value) is Dtype:
            return DTYPES[value.n]
        return [self._resolve(item) for item in value] if isinstance(value, list) else value

    def _made(self, op: Op, record: OpRecord, named: dict[str, Any]) -> list[Known]:
        if not any(isinstance(v, Block) for v in _flat(named.values())):
            return self._constant(op, record, named)
        made = RULES[canonical_name(op.name)](**named)
        return made if isinstance(made, list) else [made]

    def _constant(self, op: Op, record: OpRecord, named: dict[str, Any]) -> list[Known]:
        """An operation on constants, by the real function; for writes the new value of the target."""
        whole = filled(op, named)
        if whole is not None:
            return [whole]
        values = {h: v for h in record.inputs if isinstance(v := self.value(h), Tensor)}
        memory, row = TensorMemory(), ROWS[ROW_NUMBER[op.name]]
        large = sum(t.numel() for t in values.values()) > SMALL
        memory.tensors = {h: one_of(t) for h, t in values.items()} if large else values
        call = Call(ROW_NUMBER[op.name], 0, 0, False, list(record.args), dict(record.kwargs))
        args, kwargs = Arguments(memory, Randomness(0, _CPU)).of(row, call)
        costly = row.draws or op.cost == "cubic" or (large and op.size != "same")
        if costly or (not op.writes and sizes.output_bytes(op, args, kwargs) > 16 * SMALL):
            raise NotLinear("a costly constant")
        if op.writes:
            args[0] = args[0].clone()
        made = row.function(*args, **kwargs)
        made = args[0] if op.writes else made
        if large:
            shapes = [values[record.inputs[0]].shape] if op.writes else [t.shape for t in values.values()]
            made = made.expand(broadcast(*shapes))
        return [made] if isinstance(made, Tensor) else list(made)

    def _write(self, op: Op, record: OpRecord, named: dict[str, Any]) -> None:
        handle = (record.args[0] if record.args else record.kwargs["input"]).i
        root, views = self.views[handle]
        if root in self.fixed:
            raise NotLinear("a write below views")
        plain = {name: self._resolve(value) for name, value in named.items()}
        if not any(isinstance(v, Block) for v in _flat(plain.values())):
            new: Known = self._constant(op, record, named)[0]
        elif op.name == "setitem":
            new = put(plain["input"], plain["index"], plain["value"])
        elif op.name == "copy":
            new = fit(plain["src"], plain["input"].shape)
        elif op.name in ("zero_", "fill_"):
            new = fit(torch.tensor(plain.get("value", 0)).double(), plain["input"].shape)
        else:
            new = fit(RULES[canonical_name(op.name).removesuffix("_")](**plain), plain["input"].shape)
        before = plain["input"]
        if isinstance(new, Block) and isinstance(before, Tensor) and not before.is_floating_point():
            raise NotLinear("rounded to integers")
        self.state[root] = self._through(root, views, new)

    def _through(self, root: int, views: Sequence[View], new: Known) -> Known:
        """The root after a view of it was given new values."""
        for depth in range(len(views) - 1, -1, -1):
            op, named = views[depth]
            parent = self.state[root]
            for earlier, given in views[:depth]:
                parent = viewed(earlier, parent, given)
            if op.name == "getitem":
                new = put(parent, named["index"], new)
            elif op.name in _REGROUPED:
                new = blocks.reshape(new, parent.shape) if isinstance(new, Block) else new.reshape(parent.shape)
            else:
                raise NotLinear("a write to a view")
        return new


def _flat(values: Any) -> list[Any]:
    return [item for value in values for item in (value if isinstance(value, list) else [value])]
