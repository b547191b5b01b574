"""Attacks that each wall must stop, run by the start-up self-test in a real child. Trusted code.

Exit codes: 0 the wall held, 1 it did not. A wall that kills is read from the exit status.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Callable

from selfdev_sandbox.isolation import no_new_privs_set

HELD, BROKEN = 0, 1


def _refused(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError:
        return HELD
    return BROKEN


def _open() -> int:
    return _refused(lambda: os.open("/", os.O_RDONLY))


def _create() -> int:
    return _refused(lambda: os.open(f"/tmp/selfdev-sandbox-probe-{os.getpid()}", os.O_CREAT | os.O_WRONLY))


def _fork() -> int:
    if os.fork() == 0:
        os._exit(0)
    return BROKEN


def _execute() -> int:
    return _refused(lambda: os.execv(sys.executable, [sys.executable, "-c", ""]))


def _socket() -> int:
    return _refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def _memory(limit: int) -> int:
    try:
        blob = bytearray(2 * limit)
    except MemoryError:
        return HELD
    return BROKEN if blob is not None else HELD


def _uid() -> int:
    return HELD if os.geteuid() != 0 else BROKEN


def _no_new_privs() -> int:
    return HELD if no_new_privs_set() else BROKEN


def _descriptors() -> int:
    for fd in range(4, 256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        return BROKEN
    return HELD if resource.getrlimit(resource.RLIMIT_FSIZE) == (0, 0) else BROKEN


def _environment() -> int:
    return HELD if set(os.environ) <= {"PYTHONHASHSEED", "LC_CTYPE"} and not sys.flags.hash_randomization else BROKEN


def _modules() -> int:
    return BROKEN if {"torch", "numpy"} & set(sys.modules) else HELD


def _spin() -> int:
    while True:
        pass


_PROBES: dict[str, Callable[[], int]] = {
    "open": _open,
    "create": _create,
    "fork": _fork,
    "execute": _execute,
    "socket": _socket,
    "uid": _uid,
    "no_new_privs": _no_new_privs,
    "descriptors": _descriptors,
    "environment": _environment,
    "modules": _modules,
    "spin": _spin,
}


def run(name: str, memory: int) -> int:
    """Run one probe in this (walled) process."""
    return _memory(memory) if name == "memory" else _PROBES[name]()
