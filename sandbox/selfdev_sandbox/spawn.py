"""The zygote process as its parent sees it: start it, ask it to fork or reap, end it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from selfdev_sandbox.contract import SandboxError, printable

_BOOT = "import sys; sys.path.extend(sys.argv[2:]); from selfdev_sandbox.zygote import main; main(int(sys.argv[1]))"
_START_SECONDS = 60.0


class Zygote:
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

    def fork(self, fd: int, layers: frozenset[str], memory: int, cpu_seconds: int, probe: str = "") -> int:
        """Fork a walled child that talks over `fd`; return its process id."""
        request = {"type": "fork", "layers": sorted(layers), "memory": memory, "cpu_seconds": cpu_seconds}
        return self.ask({**request, "probe": probe}, fd)

    def kill(self, pid: int) -> None:
        """Kill a child that was not reaped yet, without waiting for its end."""
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)

    def reap(self, pid: int) -> int:
        """Kill a child's process group; return its wait status once it is gone."""
        return self.ask({"type": "reap", "pid": pid})

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
