"""A run's operations as data: what the result is made of, without dead code, numbered canonically, hashed, costed.

    trace = Trace.of(box.run(source, task_vectors, seed=0), task_vectors)
    trace.canonical_hash(), trace.cost, trace.reads_data

`trace_flow` follows values through memory, `trace_linear` finds coefficients, `trace_replay` runs a trace again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from selfdev_sandbox.contract import OpRecord, RunResult, SandboxError, Status
from selfdev_sandbox.protocol import Ref, Value
from selfdev_sandbox.trace_flow import Flow, digest

if TYPE_CHECKING:
    import torch

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took."""

    operations: int  # tensor operations, dead ones included
    live_operations: int  # those that the result is made of
    moved_bytes: int  # read and written by operations, in total
    peak_bytes: int  # largest tensor memory beyond the inputs


@dataclass(frozen=True, slots=True)
class Parameter:
    """Name, shape and dtype ("float32") of one input tensor; the same in every source."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Trace:
    """The operations that a result is made of, in the order they ran.

    An operation is live if a returned tensor depends on it: by value, as a write to memory that the tensor looks into
    (a write to any part of a storage counts as one to all of it), or as a random draw that moved on a generator from
    which a live draw came later. Handles are `1 + source * len(parameters) + position` for inputs and count on in the
    order of `records`; the last record is `return`, its names in the inputs' order.
    """

    parameters: tuple[Parameter, ...]
    sources: int
    records: tuple[OpRecord, ...]
    roots: tuple[int, ...]  # per input the first input whose memory it overlaps; by itself 1, 2, 3, ...
    reads: int  # values that went to the program (`.item()`, `if x > 0`, `.tolist()`)
    reads_data: bool
    """The program saw something that depends on the inputs' values: a value, a shape that a mask decides, an error. Its
    literals and its path then belong to these inputs; on others it may do something else."""
    draws: bool  # random numbers flow into the result
    cost: Cost

    @classmethod
    def of(cls, outcome: RunResult, task_vectors: Sequence[Mapping[str, torch.Tensor]]) -> Trace:
        """The trace of a run.

        Args:
            outcome: of `Sandbox.run` on these task vectors.
            task_vectors: for names, shapes, dtypes and shared memory; values are not looked at.

        Raises:
            SandboxError: the run has no result, or its trace is incomplete (`RunResult.trace_complete`).
        """
        if outcome.status is not Status.OK or not outcome.trace or outcome.trace[-1].op != "return":
            raise SandboxError(
                f"a run that ended as '{outcome.status}' has no trace of a result; give one that is 'ok'"
            )
        if not outcome.trace_complete:
            raise SandboxError("the trace is incomplete: raise Limits.trace_operations and run the program again")
        parameters = parameters_of(task_vectors)
        roots = memory_roots(task_vectors)
        flow = Flow(roots)
        for record in outcome.trace[:-1]:
            flow.add(record)
        last = outcome.trace[-1]
        returned = OpRecord("return", (), {p.name: last.kwargs[p.name] for p in parameters}, (), 0)
        live = flow.live([ref.i for ref in returned.kwargs.values()])
        records = _renumbered([*(outcome.trace[i] for i in live), returned], len(roots))
        cost = Cost(outcome.operations, len(records) - 1, outcome.moved_bytes, outcome.peak_bytes)
        draws = any(i in flow.draws for i in live)
        return cls(parameters, len(task_vectors), records, roots, flow.reads, flow.reads_data, draws, cost)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, in the inputs' order."""
        return tuple(p.name for p in self.parameters)

    @property
    def returned(self) -> dict[str, int]:
        """Parameter name -> handle of its result."""
        return {name: ref.i for name, ref in self.records[-1].kwargs.items()}

    def input_of(self, handle: int) -> tuple[int, int] | None:
        """(source, position of the parameter) of an input's handle; None for other handles."""
        count = len(self.parameters)
        return divmod(handle - 1, count) if 1 <= handle <= count * self.sources else None

    def canonical_hash(self) -> str:
        """32 hexadecimal digits; equal for two traces only if they compute the same bits from the same inputs.

        Each result is hashed as the expression it is, down to inputs, constants and generator states. Variable names,
        layout, comments, dead code, the order of independent steps and repeated work do not show; constants,
        operations, the order of operands, and the parameters' names, shapes and dtypes do. Synonyms (`sub`,
        `subtract`) and arguments given by position or by name are the same.
        """
        flow = Flow(self.roots)
        for record in self.records[:-1]:
            flow.add(record)
        results = [[name, flow.value(handle)] for name, handle in self.returned.items()]
        inputs = [[p.name, list(p.shape), p.dtype] for p in self.parameters]
        return digest(_VERSION, self.sources, inputs, results).hex()

    def to_bytes(self) -> bytes:
        """The trace as msgpack, for a store; `from_bytes` gives it back."""
        records = [[getattr(record, name) for name in OpRecord.__slots__] for record in self.records]
        fields = {name: getattr(self, name) for name in _FIELDS} | {"records": records}
        return msgspec.msgpack.encode([_VERSION, list(fields.values())])

    @classmethod
    def from_bytes(cls, data: bytes) -> Trace:
        """The trace that `to_bytes` wrote.

        Raises:
            SandboxError: the bytes are not a trace of this version.
        """
        try:
            version, stored = msgspec.msgpack.decode(data, type=tuple[int, _Stored])
        except msgspec.MsgspecError as error:
            raise SandboxError(f"these {len(data)} bytes are not a stored trace ({error})") from None
        if version != _VERSION:
            raise SandboxError(f"the trace has version {version}; this release reads version {_VERSION}")
        fields = {name: getattr(stored, name) for name in _FIELDS}
        return cls(**fields | {"records": tuple(OpRecord(*record) for record in stored.records)})


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """A `Trace` with the types that its arguments are decoded as."""

    parameters: tuple[Parameter, ...]
    sources: int
    records: list[tuple[str, list[Value], dict[str, Value], tuple[int, ...], int, tuple[int, ...]]]
    roots: tuple[int, ...]
    reads: int
    reads_data: bool
    draws: bool
    cost: Cost


_FIELDS = _Stored.__struct_fields__


def parameters_of(task_vectors: Sequence[Mapping[str, torch.Tensor]]) -> tuple[Parameter, ...]:
    """Names, shapes and dtypes of the first task vector (the sandbox checks that all agree)."""
    first = task_vectors[0].items()
    return tuple(Parameter(name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in first)


def memory_roots(task_vectors: Sequence[Mapping[str, torch.Tensor]]) -> tuple[int, ...]:
    """Per input, in the order of handles, the lowest handle of those whose memory it overlaps (tied weights)."""
    extents = []
    for handle, tensor in enumerate((t for vector in task_vectors for t in vector.values()), 1):
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.data_ptr()
        extents.append((start, start + (reach + 1) * tensor.element_size() if tensor.numel() else start, handle))
    roots = {handle: handle for *_, handle in extents}
    reached, holder = -1, 0
    for start, end, handle in sorted(extents):
        if start < reached:
            low, high = sorted((roots[holder], roots[handle]))
            roots = {h: low if r == high else r for h, r in roots.items()}
        if end > reached:
            reached, holder = end, handle
    return tuple(roots[handle] for handle in sorted(roots))


def _renumbered(records: Sequence[OpRecord], inputs: int) -> tuple[OpRecord, ...]:
    """Handles in order of appearance, after the inputs."""
    number = {handle: handle for handle in range(1, inputs + 1)}
    out = []
    for record in records:
        for handle in record.outputs:
            number[handle] = len(number) + 1
        out.append(
            replace(
                record,
                args=[_mapped(value, number) for value in record.args],
                kwargs={name: _mapped(value, number) for name, value in record.kwargs.items()},
                outputs=tuple(number[handle] for handle in record.outputs),
                shares=tuple(number[handle] if handle else 0 for handle in record.shares),
            )
        )
    return tuple(out)


def _mapped(value: Any, number: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [_mapped(item, number) for item in value]
    return Ref(number[value.i]) if type(value) is Ref else value
