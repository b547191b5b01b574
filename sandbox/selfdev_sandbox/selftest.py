"""The start-up self-test: every wall is probed in a real child before any program runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from selfdev_sandbox.contract import SandboxError
from selfdev_sandbox.spawn import Zygote

LAYERS = ("landlock", "seccomp", "rlimits", "no_new_privs", "uid")
_PROBES = {
    "landlock": ("open", "create", "execute"),
    "seccomp": ("open", "fork", "execute", "socket"),
    "rlimits": ("memory",),
    "no_new_privs": ("no_new_privs",),
    "uid": ("uid",),
}
_PROBE_MEMORY = 64 << 20


def layers_in_force(zygote: Zygote, allowed: frozenset[str], simulated: frozenset[str]) -> frozenset[str]:
    """The layers that hold on this system.

    Raises:
        SandboxError: one does not and is not allowed to be missing, or a child is not clean.
    """
    missing = [layer for layer in LAYERS if layer in simulated or not holds(zygote, layer)]
    if "no_new_privs" in missing:  # the kernel takes the other two only after it
        missing = [layer for layer in LAYERS if layer in {*missing, "landlock", "seccomp"}]
    refused = [layer for layer in missing if layer not in allowed]
    if refused:
        raise SandboxError(
            f"the protective layer '{refused[0]}' is missing on this system ({', '.join(missing)}); "
            f"run on Linux with it, or name it in allow_missing"
        )
    layers = frozenset(LAYERS) - set(missing)
    for name in ("descriptors", "environment", "modules"):
        if name == "descriptors" and "rlimits" in missing:
            continue
        if probe(zygote, name, layers - {"seccomp"}) != 0:  # the probe itself asks the system
            raise SandboxError(f"the sandbox's self-test failed: {name} of the child are not clean")
    return layers


def level_of(layers: frozenset[str]) -> str:
    """full, no-landlock, ..., language-only."""
    missing = [layer for layer in LAYERS if layer not in layers]
    if {"landlock", "seccomp"} <= set(missing):
        return "language-only"
    return "no-" + "-".join(missing) if missing else "full"


def holds(zygote: Zygote, layer: str) -> bool:
    """Whether one layer, alone, stops what it is there for."""
    alone = frozenset({layer, "no_new_privs", *({"uid"} if layer == "landlock" else set())})
    statuses = [probe(zygote, name, alone) for name in _PROBES[layer]]
    killed = layer == "seccomp"  # the filter may kill instead of refusing
    return all(s == 0 or (killed and os.WIFSIGNALED(s) and os.WTERMSIG(s) == signal.SIGSYS) for s in statuses)


def probe(zygote: Zygote, name: str, layers: frozenset[str]) -> int:
    """Run a probe in a child with these layers; return its wait status (0: held)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = zygote.fork(theirs.fileno(), layers, _PROBE_MEMORY, 5, name)
        theirs.close()
        ours.settimeout(10)
        with contextlib.suppress(OSError):
            ours.recv(1)  # returns when the child is gone
        return zygote.reap(pid)
