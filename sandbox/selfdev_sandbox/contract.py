"""What a caller of the sandbox gives and gets: limits, statuses, results, errors. Plain data, free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MIB = 1 << 20
GIB = 1 << 30


class SandboxError(Exception):
    """The sandbox itself cannot be used: a protective layer is missing, the zygote died, or the call is wrong."""


class Status(StrEnum):
    """How one program ended."""

    OK = "ok"
    SYNTAX = "syntax"  # not Python, or beyond the source limits
    UNSUPPORTED = "unsupported"  # a name or construct that tensor programs do not offer
    VIOLATION = "violation"  # reached for something forbidden; the child was ended at once
    EXCEPTION = "exception"  # raised
    TIMEOUT = "timeout"  # wall clock, or a work budget (operations, bytes moved, floating-point work)
    MEMORY = "memory"  # tensor memory, or the child's own memory
    CRASH = "crash"  # the child died
    INVALID = "invalid"  # result with wrong names, shapes, dtype, non-finite values or norm
    NONDETERMINISTIC = "nondeterministic"  # reserved for callers that run a program twice and compare bits


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one run. `None` means: in proportion to the inputs (see `for_inputs`)."""

    seconds: float = 10.0  # wall clock, from before the fork
    live_bytes: int | None = None  # tensor memory beyond the inputs
    moved_bytes: int | None = None  # bytes read and written by operations, in total
    operations: int | None = None  # tensor operations
    flops: float | None = None  # estimated floating-point work, in total
    child_memory_bytes: int = 512 * MIB  # the child's own (Python) memory above its start
    source_chars: int = 20_000
    source_nodes: int = 6_000  # nodes of the syntax tree
    source_depth: int = 60  # nesting of the syntax tree
    read_elements: int = 1_000_000  # largest tensor that `.tolist()` may read
    trace_operations: int = 20_000  # records kept in `RunResult.trace`
    norm_ratio: float = 100.0  # largest L2 norm of the result over the largest norm of an input

    def __post_init__(self) -> None:
        for name in ("seconds", "operations", "child_memory_bytes", "source_chars", "norm_ratio"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"Limits.{name} is {getattr(self, name)}; it must be positive")

    def for_inputs(self, input_bytes: int, input_elements: int, input_tensors: int) -> Budgets:
        """The budgets for inputs of that size.

        The defaults leave room for about eight float32 copies of everything, a thousand passes over it and 150
        operations for each tensor.
        """
        live = self.live_bytes if self.live_bytes is not None else max(256 * MIB, 8 * 4 * input_elements)
        moved = self.moved_bytes if self.moved_bytes is not None else max(16 * GIB, 1000 * input_bytes)
        flops = self.flops if self.flops is not None else max(1e11, 5e4 * input_elements)
        operations = self.operations if self.operations is not None else max(20_000, 150 * input_tensors)
        return Budgets(live, moved, flops, operations)


@dataclass(frozen=True, slots=True)
class Budgets:
    """What one run may use."""

    live: int  # bytes of tensor memory beyond the inputs
    moved: int  # bytes read and written
    flops: float
    operations: int


@dataclass(frozen=True, slots=True)
class OpRecord:
    """One tensor operation of a run, as data.

    Handles number the tensors of a run: input `name` number j of source i has handle `1 + i * len(names) + j`, results
    of operations count on from there. `args` hold plain values and `protocol.Ref(handle)` and friends. Three names are
    not operations: `read` (args: a handle and what went to the program: `item`, `list`, or `meta`, its shape),
    `raised` (an operation failed and the program was told: args are its name and its arguments) and, last, `return`
    (kwargs: name -> handle of the result).
    """

    op: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]
    line: int  # of the program; 0 if unknown
    shares: tuple[int, ...] = ()  # per output the argument whose memory it is a view of, 0 for its own; () if none is

    @property
    def inputs(self) -> tuple[int, ...]:
        """Handles among the arguments, in order."""
        return tuple(_handles([*self.args, *self.kwargs.values()]))


def _handles(values: Sequence[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _handles(value)
        elif type(value).__name__ == "Ref":
            yield value.i


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of one program. `result` is set exactly when `status` is `ok`."""

    status: Status
    result: dict[str, torch.Tensor] | None = None  # own storage, on the box's device, names in the inputs' order
    error: str | None = None  # one printable line, at most 500 characters
    line: int | None = None  # of the program
    operations: int = 0
    peak_bytes: int = 0  # largest tensor memory beyond the inputs
    moved_bytes: int = 0
    round_trips: int = 0  # times the program waited for a value
    seconds: float = 0.0
    trace: tuple[OpRecord, ...] = ()
    trace_complete: bool = True  # False: too long to keep, or a write or a draw failed half-way


def printable(text: str, limit: int = 500) -> str:
    """One line of printable characters, at most `limit` of them."""
    flat = " ".join(str(text)[: 4 * limit].split())
    clean = "".join(c if c.isprintable() else "?" for c in flat)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
