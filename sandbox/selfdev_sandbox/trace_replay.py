"""Run a trace again: the result without the source, through the tensor server and its rules."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch

from selfdev_sandbox import validate
from selfdev_sandbox.allowlist import OPS
from selfdev_sandbox.contract import Limits, OpRecord, SandboxError
from selfdev_sandbox.protocol import Call, Raised, Sync
from selfdev_sandbox.rows import Ended
from selfdev_sandbox.server import TensorServer
from selfdev_sandbox.trace import Trace, memory_roots, parameters_of
from selfdev_sandbox.trace_flow import ROW_NUMBER


def replay(
    trace: Trace,
    task_vectors: Sequence[Mapping[str, torch.Tensor]],
    seed: int,
    *,
    same_inputs: bool = False,
    limits: Limits | None = None,
) -> dict[str, torch.Tensor]:
    """The result of the traced program, bit for bit where the inputs, the seed and the machine are the same.

    Args:
        trace: of the run.
        task_vectors: names, shapes and dtypes as in the run, on one device; never changed.
        seed: the run's.
        same_inputs: the values are those of the run too. Needed where the program read data: its trace then holds
            constants and choices that belong to those values.
        limits: budgets, as in a run; `seconds` is not watched.

    Returns:
        Name -> tensor with memory of its own, in the inputs' order. Only operations are checked, not the result.

    Raises:
        SandboxError: other names, shapes, dtypes or sources; data was read and `same_inputs` is not set; an operation
            is not on the allow-list, fails, or breaks a budget.
    """
    _check(trace, task_vectors, same_inputs)
    limits = limits or Limits()
    inputs = [t.detach() for vector in task_vectors for t in vector.values()]
    size = sum(t.numel() * t.element_size() for t in inputs)
    budgets = limits.for_inputs(size, sum(t.numel() for t in inputs), len(inputs))
    server = TensorServer(limits, budgets, seed, inputs[0].device)
    for handle, tensor in enumerate(inputs, 1):
        server.memory.add(handle, tensor, protected=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about the program: nobody here can act on them
        for record, done in zip(trace.records[:-1], _last_uses(trace), strict=True):
            _run(server, record)
            server.memory.free(done)
        made = {name: server.memory.tensors[handle] for name, handle in trace.returned.items()}
        return validate.own_copies(made, {t.untyped_storage().data_ptr() for t in inputs})


def _check(trace: Trace, task_vectors: Sequence[Mapping[str, torch.Tensor]], same_inputs: bool) -> None:
    if len(task_vectors) != trace.sources:
        raise SandboxError(f"{len(task_vectors)} task vectors were given; the trace is of {trace.sources}")
    for number in range(len(task_vectors)):
        found = parameters_of(task_vectors[number : number + 1])
        if found != trace.parameters:
            other = next((f for f, p in zip(found, trace.parameters, strict=False) if f != p), "a number of them")
            raise SandboxError(f"the parameters of task vector {number} are not those of the trace, first: {other}")
    if memory_roots(task_vectors) != trace.roots:
        raise SandboxError("the task vectors share memory in another way than those of the trace; clone them")
    if trace.reads_data and not same_inputs:
        raise SandboxError(
            "the program read its inputs' values, so this trace holds for them only; "
            "give same_inputs=True with the same task vectors, or run the program again"
        )


def _run(server: TensorServer, record: OpRecord) -> None:
    row = ROW_NUMBER.get(record.op)
    if row is None:
        raise SandboxError(f"the trace holds '{record.op}', which is not an operation of the allow-list")
    op = OPS[row]
    out = record.outputs[0] if record.outputs else 0
    wait = op.outputs == 0 and not op.writes
    call = Call(row, out, record.line, wait, list(record.args), dict(record.kwargs))
    try:
        answer = server.handle(call)
        if answer is None:
            answer = server.handle(Sync())
    except Ended as end:
        raise SandboxError(f"line {record.line}: {end.message}") from None
    if isinstance(answer, Raised):
        raise SandboxError(f"line {record.line}: {answer.kind}: {answer.error}")


def _last_uses(trace: Trace) -> list[list[int]]:
    """Per record, the handles that nothing needs after it."""
    seen = set(trace.returned.values())
    out: list[list[int]] = []
    for record in reversed(trace.records[:-1]):
        used = {*record.inputs, *record.outputs} - seen
        seen |= used
        out.append(sorted(used))
    return out[::-1]
