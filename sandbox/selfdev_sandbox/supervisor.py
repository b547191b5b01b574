"""`Sandbox`: keeps the zygote, starts a child per program, serves its tensors, watches the clock, judges the result."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import torch

from selfdev_sandbox import protocol, validate
from selfdev_sandbox.contract import Limits, OpRecord, RunResult, SandboxError, Status, printable
from selfdev_sandbox.protocol import Done, Fail, Ref, Spec, Start
from selfdev_sandbox.rows import DTYPES, NAME_OF, Ended
from selfdev_sandbox.server import TensorServer

_BOOT = "import sys; sys.path.extend(sys.argv[2:]); from selfdev_sandbox.zygote import main; main(int(sys.argv[1]))"
_START_SECONDS = 60.0
_LAYERS = ("landlock", "seccomp", "rlimits", "no_new_privs", "uid")


class _Control:
    """The zygote process and its control socket: one request, one answer."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        places = {str(Path(__file__).resolve().parents[1])}
        for name in ("RestrictedPython", "msgspec"):
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                raise SandboxError(f"the package {name} is not installed; install it")
            places.add(str(Path(spec.origin).resolve().parents[1]))
        # Not `-I`: it would make Python ignore PYTHONHASHSEED. The environment is ours, so `-s -P` isolates as much.
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", _BOOT, str(theirs.fileno()), *sorted(places)],
            env={"PYTHONHASHSEED": "0"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.log,
            pass_fds=[theirs.fileno()],
            close_fds=True,
            start_new_session=True,
        )
        theirs.close()
        self.socket = ours
        self.socket.settimeout(_START_SECONDS)
        self._answer()

    def ask(self, message: dict[str, Any], fd: int | None = None) -> int:
        """Send a request; return the number answered."""
        try:
            socket.send_fds(self.socket, [msgspec.msgpack.encode(message)], [] if fd is None else [fd])
        except OSError as error:
            raise SandboxError(f"the sandbox's zygote is gone ({error.strerror})") from None
        return self._answer()

    def _answer(self) -> int:
        try:
            body = self.socket.recv(4096)
        except OSError:
            body = b""
        if not body:
            self.log.seek(0)
            lines = self.log.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise SandboxError(f"the sandbox's zygote is gone: {printable(lines[-1] if lines else 'no message', 300)}")
        value: int = msgspec.msgpack.decode(body)["value"]
        return value

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.log.close()


class _Inputs:
    """Task vectors as the server uses them: checked once, kept while the same objects come again."""

    def __init__(self, vectors: Sequence[Mapping[str, torch.Tensor]], device: torch.device) -> None:
        if not vectors or not vectors[0]:
            raise SandboxError("no task vectors were given; at least one with one tensor is needed")
        first = vectors[0]
        for number, vector in enumerate(vectors):
            if list(vector) != list(first):
                raise SandboxError(f"task vector {number} has other names than task vector 0; all must be the same")
            for name, tensor in vector.items():
                _check_input(number, name, tensor, first[name], device)
        self.key = tuple(id(t) for vector in vectors for t in vector.values())
        self.keep = [dict(vector) for vector in vectors]  # holds the objects, so that the ids stay theirs
        self.names = list(first)
        self.tensors = [t.detach() for vector in self.keep for t in vector.values()]
        self.specs = [Spec(list(t.shape), NAME_OF[t.dtype]) for t in first.values()]
        self.nbytes = sum(t.numel() * t.element_size() for t in self.tensors)
        self.elements = sum(t.numel() for t in self.tensors)
        self.storages = {t.untyped_storage().data_ptr() for t in self.tensors}
        self.norm = max(validate.global_norm([t.detach() for t in vector.values()]) for vector in vectors)


def _check_input(number: int, name: str, tensor: torch.Tensor, like: torch.Tensor, device: torch.device) -> None:
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise SandboxError(
            f"'{name}' of task vector {number} is {tensor.dtype} {list(tensor.shape)}; "
            f"in task vector 0 it is {like.dtype} {list(like.shape)}"
        )
    if tensor.device.type != device.type or tensor.dtype not in NAME_OF or tensor.layout != torch.strided:
        raise SandboxError(
            f"'{name}' of task vector {number} is {tensor.dtype} on {tensor.device}; "
            f"dense tensors of {', '.join(DTYPES)} on {device} are accepted"
        )


class Sandbox:
    """Runs untrusted tensor programs. Use as a context manager; `run` may be called from any thread, one at a time.

    Args:
        limits: budgets of each run.
        device: where the tensors are and the operations run.
        allow_missing: protective layers that may be absent: names of `isolation.LAYERS`, or "os" for all of them.
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
        unknown = allow_missing - {*_LAYERS, "os"}
        if unknown:
            raise SandboxError(f"allow_missing names {sorted(unknown)}; known are {sorted({*_LAYERS, 'os'})}")
        self.limits = limits or Limits()
        self.device = torch.device(device)
        self._allowed = frozenset(_LAYERS) if "os" in allow_missing else allow_missing
        self._simulated = simulate_missing
        self._lock = threading.Lock()
        self._control: _Control | None = None
        self._inputs: _Inputs | None = None
        self.level = "closed"

    def __enter__(self) -> Sandbox:
        if os.name != "posix":
            raise SandboxError(f"{sys.platform} cannot fork; run the sandbox on Linux (a VM or container)")
        self._control = _Control()
        try:
            self._self_test()
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
        if self._control is not None:
            self._control.close()
        self._control, self._inputs, self.level = None, None, "closed"

    # Self-test.

    def _self_test(self) -> None:
        """Probe every layer in a real child; set `level`."""
        missing = [layer for layer in _LAYERS if layer in self._simulated or not self._holds(layer)]
        if "no_new_privs" in missing:  # the kernel takes the other two only after it
            missing = [layer for layer in _LAYERS if layer in {*missing, "landlock", "seccomp"}]
        refused = [layer for layer in missing if layer not in self._allowed]
        if refused:
            raise SandboxError(
                f"the protective layer '{refused[0]}' is missing on this system ({', '.join(missing)}); "
                f"run on Linux with it, or name it in allow_missing"
            )
        self._layers = frozenset(_LAYERS) - set(missing)
        for probe in ("descriptors", "environment", "modules"):
            if probe == "descriptors" and "rlimits" in missing:
                continue
            if self._probe(probe, self._layers - {"seccomp"}) != 0:  # the probe itself asks the system
                raise SandboxError(f"the sandbox's self-test failed: {probe} of the child are not clean")
        strong = [layer for layer in missing if layer in ("landlock", "seccomp")]
        self.level = "full" if not missing else "language-only" if len(strong) == 2 else "no-" + "-".join(missing)
        self._test_programs()

    def _holds(self, layer: str) -> bool:
        """Whether one layer, alone, stops what it is there for."""
        alone = frozenset({layer, "no_new_privs", *({"uid"} if layer == "landlock" else set())})
        if layer == "seccomp":
            return all(
                status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS)
                for status in (self._probe(p, alone) for p in ("open", "fork", "execute", "socket"))
            )
        probes = {
            "landlock": ("open", "create", "execute"),
            "rlimits": ("memory",),
            "no_new_privs": ("no_new_privs",),
            "uid": ("uid",),
        }
        return all(self._probe(probe, alone) == 0 for probe in probes[layer])

    def _probe(self, name: str, layers: frozenset[str]) -> int:
        """Run a probe in a child with these layers; return its wait status (0: held)."""
        control = self._need_control()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            request = {"type": "fork", "layers": sorted(layers), "memory": 64 << 20, "cpu_seconds": 5, "probe": name}
            pid = control.ask(request, theirs.fileno())
            theirs.close()
            ours.settimeout(10)
            with contextlib.suppress(OSError):
                ours.recv(1)  # returns when the child is gone
            return control.ask({"type": "reap", "pid": pid})

    def _test_programs(self) -> None:
        """The language layer, the deadline and the whole path, with real programs."""
        vectors = [{"w": torch.ones(2, 2, device=self.device)}]
        cases = (
            ("def merge_models(t):\n    return {k: 2 * v for k, v in t[0].items()}", Status.OK),
            ("import os\ndef merge_models(t):\n    return t[0]", Status.VIOLATION),
            ("def merge_models(t):\n    while True:\n        pass", Status.TIMEOUT),
        )
        for source, wanted in cases:
            seconds = 0.2 if wanted is Status.TIMEOUT else 10.0
            outcome = self._run(source, vectors, 0, "merge_models", Limits(seconds=seconds))
            if outcome.status is not wanted:
                raise SandboxError(
                    f"the sandbox's self-test failed: a program that must end as '{wanted}' ended as "
                    f"'{outcome.status}' ({outcome.error})"
                )
        self._inputs = None

    def _need_control(self) -> _Control:
        if self._control is None:
            raise SandboxError("the sandbox is closed; use it inside its 'with' block")
        return self._control

    # Running.

    def run(
        self, source: str, task_vectors: Sequence[Mapping[str, torch.Tensor]], seed: int, entry: str = "merge_models"
    ) -> RunResult:
        """Run one program in a fresh child.

        Args:
            source: Python text that defines `entry(task_vectors)`.
            task_vectors: one mapping per source model, same names, shapes and dtypes; never changed. The same objects
                given again are not checked again, so their values must not change in between.
            seed: seeds every random draw; the same seed gives the same bits.
            entry: name of the function.

        Returns:
            The outcome; failures of the program are a status, never an exception.

        Raises:
            SandboxError: the inputs are unusable or the sandbox is closed.
        """
        with self._lock:
            return self._run(source, task_vectors, seed, entry, self.limits)

    def _register(self, vectors: Sequence[Mapping[str, torch.Tensor]]) -> _Inputs:
        key = tuple(id(t) for vector in vectors for t in vector.values())
        if self._inputs is None or self._inputs.key != key or len(self._inputs.keep) != len(vectors):
            self._inputs = _Inputs(vectors, self.device)
        return self._inputs

    def _run(
        self, source: str, vectors: Sequence[Mapping[str, torch.Tensor]], seed: int, entry: str, limits: Limits
    ) -> RunResult:
        inputs = self._register(vectors)
        if len(source) > limits.source_chars:
            return RunResult(
                Status.SYNTAX,
                error=f"the source has {len(source)} characters; at most {limits.source_chars} are allowed",
            )
        try:
            source.encode()
        except UnicodeError:
            return RunResult(Status.SYNTAX, error="the source is not valid Unicode")
        control = self._need_control()
        started = time.monotonic()
        server = TensorServer(limits, limits.for_inputs(inputs.nbytes, inputs.elements), seed, self.device)
        for i, tensor in enumerate(inputs.tensors):
            server.memory.add(i + 1, tensor, protected=True)
        ours, theirs = socket.socketpair()
        with ours:
            try:
                request = {
                    "type": "fork",
                    "layers": sorted(self._layers),
                    "memory": limits.child_memory_bytes,
                    "cpu_seconds": math.ceil(limits.seconds) + 1,
                    "probe": "",
                }
                pid = control.ask(request, theirs.fileno())
            finally:
                theirs.close()
            start = Start(
                source,
                entry,
                seed & 0xFFFFFFFF,
                inputs.names,
                inputs.specs,
                len(inputs.keep),
                str(self.device),
                limits.source_chars,
                limits.source_nodes,
                limits.source_depth,
            )
            try:
                session = _Session(ours, server, started + limits.seconds, limits)
                end = session.serve(start)
            finally:
                status = control.ask({"type": "reap", "pid": pid})
        return self._judge(end, status, server, inputs, limits, started)

    def _judge(
        self, end: Done | Ended, exit_status: int, server: TensorServer, inputs: _Inputs, limits: Limits, started: float
    ) -> RunResult:
        """The outcome of a run whose child is gone."""
        result: dict[str, torch.Tensor] | None = None
        status, error, line = Status.OK, None, 0
        if isinstance(end, Done):
            try:
                values = [server.memory.tensors[h] for h in end.handles]
                with torch.no_grad():
                    checked = validate.check(end.names, values, inputs.keep[0], limits.norm_ratio * inputs.norm)
                    result = validate.own_copies(checked, inputs.storages)
            except validate.Invalid as invalid:
                status, error = Status.INVALID, str(invalid)
            except KeyError:
                status, error = Status.VIOLATION, "a tensor that does not exist was returned"
            else:
                pairs = zip(end.names, end.handles, strict=True)
                server.trace.append(OpRecord("return", (), {n: Ref(h) for n, h in pairs}, (), 0))
        else:
            status, error, line = end.status, end.message, end.line
            if status is Status.CRASH:
                status, error = _death(exit_status)
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


class _Session:
    """One run's traffic: frames in, answers out, until the end or the deadline."""

    def __init__(self, channel: socket.socket, server: TensorServer, deadline: float, limits: Limits) -> None:
        self.channel, self.server, self.deadline, self.limits = channel, server, deadline, limits
        self.data = bytearray()
        self.poll = select.poll()
        self.poll.register(channel, select.POLLIN)

    def serve(self, start: Start) -> Done | Ended:
        """Serve until the program says how it ended, or is ended."""
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's, about the program: nobody here can act on them
                self._send(protocol.frame(start))
                while True:
                    message = protocol.decode_request(self._frame())
                    if isinstance(message, Done):
                        return self._done(message)
                    if isinstance(message, Fail):
                        return _failure(message)
                    answer = self.server.handle(message)
                    if answer is not None:
                        self._send(protocol.frame(answer))
        except Ended as end:
            return end
        except (msgspec.MsgspecError, RecursionError):
            return Ended(Status.VIOLATION, "the program's process sent a malformed message", 0)
        except TimeoutError:
            return self._late()
        except OSError:
            return Ended(Status.CRASH, "", 0)

    def _done(self, message: Done) -> Done | Ended:
        if self.server.failed is not None:
            return Ended(Status.VIOLATION, "a result after a failed operation", 0)
        if len(message.names) != len(message.handles):
            return Ended(Status.VIOLATION, "the program's process sent a malformed message", 0)
        return message

    def _late(self) -> Ended:
        return Ended(Status.TIMEOUT, f"not done after {self.limits.seconds:g} seconds", 0)

    def _frame(self) -> bytes:
        data = self.data
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
            if len(data) >= 4 and int.from_bytes(data[:4], "little") > protocol.MAX_FRAME:
                raise Ended(Status.VIOLATION, "the program's process sent an oversized message", 0)
            more = self._receive()
            if not more:
                raise Ended(Status.CRASH, "", 0)
            data += more
        if time.monotonic() > self.deadline:
            raise TimeoutError
        size = 4 + int.from_bytes(data[:4], "little")
        body = bytes(data[4:size])
        del data[:size]
        return body

    def _receive(self) -> bytes:
        left = self.deadline - time.monotonic()
        if left <= 0 or not self.poll.poll(left * 1000):
            raise TimeoutError
        return self.channel.recv(1 << 16)

    def _send(self, data: bytes) -> None:
        self.channel.settimeout(max(0.001, self.deadline - time.monotonic()))
        self.channel.sendall(data)


def _failure(message: Fail) -> Ended:
    """The child's own account; only statuses that it may claim are believed."""
    claims = {Status.SYNTAX, Status.UNSUPPORTED, Status.VIOLATION, Status.EXCEPTION, Status.MEMORY, Status.INVALID}
    status = next((s for s in claims if s.value == message.status), Status.CRASH)
    return Ended(status, message.error, max(0, message.line))
