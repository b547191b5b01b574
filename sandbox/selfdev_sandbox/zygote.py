"""The zygote: a small Python process without torch that forks one walled child per program.

    python -s -P -c BOOT FD DIR...      (spawned by `supervisor`, with a clean environment)

It answers requests on its control socket, one at a time: `fork` (with the child's end of a socket attached), `reap`.
It ends when the control socket closes. Nothing a child does reaches it but an exit status.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import warnings

import msgspec

from selfdev_sandbox import probes, program
from selfdev_sandbox.isolation import LayerMissing, close_descriptors, wall_in

CHANNEL = 3  # the child's only descriptor besides /dev/null
LAYER_MISSING_EXIT = 71


class Fork(msgspec.Struct, tag="fork"):
    """Fork a child that runs a program, or a probe of the walls."""

    layers: list[str]
    memory: int
    cpu_seconds: int
    probe: str = ""


class Reap(msgspec.Struct, tag="reap"):
    """Kill a child's process group and collect its exit status."""

    pid: int


class Answer(msgspec.Struct):
    """`value`: the process id or the wait status."""

    value: int


_decode = msgspec.msgpack.Decoder(Fork | Reap).decode


def _child(request: Fork, fd: int, parent: int) -> None:
    """In the child: walls first, then the untrusted text. Never returns."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        close_descriptors(fd)
        wall_in(frozenset(request.layers), parent, request.memory, request.cpu_seconds)
        code = probes.run(request.probe, request.memory) if request.probe else program.serve(CHANNEL)
    except LayerMissing:
        code = LAYER_MISSING_EXIT
    finally:
        os._exit(code)


def _fork(request: Fork, fd: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(request, fd, parent)
    os.close(fd)
    return pid


def _reap(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # before its setpgid there is no such group
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return -1


def main(fd: int) -> None:
    """Serve until the other end goes away."""
    warnings.simplefilter("ignore")  # a warning would look up source lines in files
    control = socket.socket(fileno=fd)
    program.warm_up()
    gc.collect()
    gc.freeze()
    control.sendall(msgspec.msgpack.encode(Answer(0)))
    while True:
        body, descriptors, _flags, _address = socket.recv_fds(control, 4096, 1)
        if not body:
            return
        request = _decode(body)
        value = _fork(request, descriptors[0]) if isinstance(request, Fork) else _reap(request.pid)
        control.sendall(msgspec.msgpack.encode(Answer(value)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
