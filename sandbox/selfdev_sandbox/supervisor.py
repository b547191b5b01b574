"""`Sandbox`: keeps the zygote, starts a child per program, serves its tensors, judges the result."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType

import torch

from selfdev_sandbox import validate
from selfdev_sandbox.contract import Limits, OpRecord, RunResult, SandboxError, Status, printable
from selfdev_sandbox.inputs import Inputs, identity
from selfdev_sandbox.protocol import Done, Ref, Start
from selfdev_sandbox.rows import Ended
from selfdev_sandbox.selftest import LAYERS, layers_in_force, level_of
from selfdev_sandbox.server import TensorServer
from selfdev_sandbox.session import Session
from selfdev_sandbox.spawn import Zygote

_INPUTS_KEPT = 8  # one list of task vectors and the probes of a fingerprint

_SELF_TEST = (
    ("def merge_models(t):\n    return {k: 2 * v for k, v in t[0].items()}", Status.OK),
    ("import os\ndef merge_models(t):\n    return t[0]", Status.VIOLATION),
    ("def merge_models(t):\n    while True:\n        pass", Status.TIMEOUT),
)


class Sandbox:
    """Runs untrusted tensor programs. Use as a context manager; `run` may be called from any thread, one at a time.

    Args:
        limits: budgets of each run.
        device: where the tensors are and the operations run.
        allow_missing: protective layers that may be absent: names of `selftest.LAYERS`, or "os" for all of them.
        simulate_missing: layers to leave out, for tests of what happens then.

    Raises:
        SandboxError: a layer is missing and not named in `allow_missing`, or the self-test failed.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        device: str | torch.device = "cpu",
        allow_missing: frozenset[str] = frozenset(),
        *,
        simulate_missing: frozenset[str] = frozenset(),
    ) -> None:
        unknown = allow_missing - {*LAYERS, "os"}
        if unknown:
            raise SandboxError(f"allow_missing names {sorted(unknown)}; known are {sorted({*LAYERS, 'os'})}")
        self.limits = limits or Limits()
        self.device = torch.device(device)
        self._allowed = frozenset(LAYERS) if "os" in allow_missing else allow_missing
        self._simulated = simulate_missing
        self._lock = threading.Lock()
        self._zygote: Zygote | None = None
        self._second: Zygote | None = None  # for `verify`; started when first needed
        self._inputs: dict[tuple[int, ...], Inputs] = {}  # the last few, in the order of their use
        self.layers: frozenset[str] = frozenset()
        self.level = "closed"

    def __enter__(self) -> Sandbox:
        if os.name != "posix":
            raise SandboxError(f"{sys.platform} cannot fork; run the sandbox on Linux (a VM or container)")
        self._zygote = Zygote()
        try:
            self.layers = layers_in_force(self._zygote, self._allowed, self._simulated)
            self.level = level_of(self.layers)
            self._test_programs()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the zygote; safe to call twice."""
        for zygote in (self._zygote, self._second):
            if zygote is not None:
                zygote.close()
        self._zygote = self._second = None
        self._inputs.clear()
        self.layers, self.level = frozenset(), "closed"

    def _test_programs(self) -> None:
        """The language layer, the deadline and the whole path, with real programs."""
        vectors = [{"w": torch.ones(2, 2, device=self.device)}]
        for source, wanted in _SELF_TEST:
            limits = Limits(seconds=0.2 if wanted is Status.TIMEOUT else 10.0)
            outcome = self._run(source, vectors, 0, "merge_models", limits)
            if outcome.status is not wanted:
                raise SandboxError(
                    f"the sandbox's self-test failed: a program that must end as '{wanted}' ended as "
                    f"'{outcome.status}' ({outcome.error})"
                )
        self._inputs.clear()

    # Running.

    def run(
        self,
        source: str,
        task_vectors: Sequence[Mapping[str, torch.Tensor]],
        seed: int,
        entry: str = "merge_models",
        verify: bool = False,
        limits: Limits | None = None,
    ) -> RunResult:
        """Run one program in a fresh child.

        Args:
            source: Python text that defines `entry(task_vectors)`.
            task_vectors: one mapping per source model, same names, shapes and dtypes; never changed. The same objects
                given again are not checked again, so their values must not change in between (the last few lists are
                kept alive for that; `forget` lets them go).
            seed: seeds every random draw; the same seed gives the same bits.
            entry: name of the function.
            verify: run an accepted program again, in a child of a second zygote (whose objects have other addresses);
                other bits, by 128-bit checksums of each tensor, make it `nondeterministic`. Memory holds one result.
            limits: budgets of this run instead of the box's.

        Returns:
            The outcome; failures of the program are a status, never an exception.

        Raises:
            SandboxError: the inputs are unusable or the sandbox is closed.
        """
        with self._lock:
            limits = limits or self.limits
            outcome = self._run(source, task_vectors, seed, entry, limits)
            if not verify or outcome.result is None:
                return outcome
            bits = validate.checksums(outcome.result)
            outcome = replace(outcome, result=None)  # the second run needs its memory
            if self._second is None:
                self._second = Zygote()
            again = self._run(source, task_vectors, seed, entry, limits, self._second)
        seconds = outcome.seconds + again.seconds
        if again.result is not None and validate.checksums(again.result) == bits:
            return replace(outcome, result=again.result, seconds=seconds)
        told = (
            "a second run gave other values" if again.status is Status.OK else f"a second run ended as {again.status}"
        )
        error = printable(told if again.error is None else f"{told} ({again.error})")
        return replace(outcome, status=Status.NONDETERMINISTIC, error=error, line=again.line, seconds=seconds)

    def forget(self) -> None:
        """Let go of all task vectors."""
        with self._lock:
            self._inputs.clear()

    def _register(self, vectors: Sequence[Mapping[str, torch.Tensor]]) -> Inputs:
        key = identity(vectors)
        inputs = self._inputs.pop(key, None) or Inputs(vectors, self.device)
        self._inputs[key] = inputs
        while len(self._inputs) > _INPUTS_KEPT:
            del self._inputs[next(iter(self._inputs))]
        return inputs

    def _run(
        self,
        source: str,
        vectors: Sequence[Mapping[str, torch.Tensor]],
        seed: int,
        entry: str,
        limits: Limits,
        zygote: Zygote | None = None,
    ) -> RunResult:
        zygote = zygote or self._zygote
        if zygote is None:
            raise SandboxError("the sandbox is closed; use it inside its 'with' block")
        inputs = self._register(vectors)
        refused = _unreadable(source, limits)
        if refused is not None:
            return RunResult(Status.SYNTAX, error=refused)
        started = time.monotonic()
        deadline = started + limits.seconds
        budgets = limits.for_inputs(inputs.nbytes, inputs.elements, len(inputs.tensors))
        server = TensorServer(limits, budgets, seed, self.device, deadline)
        for i, tensor in enumerate(inputs.tensors):
            server.memory.add(i + 1, tensor, protected=True)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                cpu_seconds = math.ceil(limits.seconds) + 1
                pid = zygote.fork(theirs.fileno(), self.layers, limits.child_memory_bytes, cpu_seconds)
            try:
                start = _start(source, entry, seed, inputs, self.device, limits)
                end = Session(ours, server, deadline, limits).serve(start)
                if isinstance(end, Done):
                    zygote.kill(pid)  # it dies while the result is checked
                    verdict = _accept(end, server, inputs, limits)
            finally:
                exit_status = zygote.reap(pid)
        if isinstance(end, Ended):
            verdict = _refuse(end, exit_status)
        status, result, error, line = verdict
        return RunResult(
            status,
            result,
            None if error is None else printable(error),
            line or None,
            server.operations,
            server.memory.peak,
            server.moved,
            server.round_trips,
            time.monotonic() - started,
            tuple(server.trace),
            server.trace_complete,
        )


_Verdict = tuple[Status, dict[str, torch.Tensor] | None, str | None, int]


def _unreadable(source: str, limits: Limits) -> str | None:
    """Why a source is not even sent to a child."""
    if len(source) > limits.source_chars:
        return f"the source has {len(source)} characters; at most {limits.source_chars} are allowed"
    try:
        source.encode()
    except UnicodeError:
        return "the source is not valid Unicode"
    return None


def _start(source: str, entry: str, seed: int, inputs: Inputs, device: torch.device, limits: Limits) -> Start:
    return Start(
        source,
        entry,
        seed & 0xFFFFFFFF,
        inputs.names,
        inputs.specs,
        len(inputs.keep),
        str(device),
        limits.source_chars,
        limits.source_nodes,
        limits.source_depth,
    )


def _accept(end: Done, server: TensorServer, inputs: Inputs, limits: Limits) -> _Verdict:
    """Check what the program returned."""
    try:
        values = [server.memory.tensors[h] for h in end.handles]
        with torch.no_grad():
            checked = validate.check(end.names, values, inputs.keep[0], limits.norm_ratio * inputs.norm)
            result = validate.own_copies(checked, inputs.storages)
    except validate.Invalid as invalid:
        return Status.INVALID, None, str(invalid), 0
    except KeyError:
        return Status.VIOLATION, None, "a tensor that does not exist was returned", 0
    pairs = zip(end.names, end.handles, strict=True)
    server.trace.append(OpRecord("return", (), {n: Ref(h) for n, h in pairs}, (), 0))
    return Status.OK, result, None, 0


def _refuse(end: Ended, exit_status: int) -> _Verdict:
    status, message = end.status, end.message
    if status is Status.CRASH:
        status, message = _death(exit_status)
    return status, None, message, end.line


def _death(exit_status: int) -> tuple[Status, str]:
    """Status and message of a child that ended without a word, from its wait status."""
    if os.WIFSIGNALED(exit_status):
        number = os.WTERMSIG(exit_status)
        if number == signal.SIGSYS:
            return Status.VIOLATION, "a forbidden system call"
        if number == signal.SIGXCPU:
            return Status.TIMEOUT, "the processor time is used up"
        return Status.CRASH, f"the program's process died of {signal.Signals(number).name}"
    return Status.CRASH, f"the program's process ended early (exit code {os.WEXITSTATUS(exit_status)})"
