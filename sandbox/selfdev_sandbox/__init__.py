"""Run untrusted tensor programs: a program without torch, a tensor server that runs what it asks for.

    from selfdev_sandbox import Limits, Sandbox

    with Sandbox(limits=Limits(seconds=5)) as box:
        outcome = box.run(source, task_vectors, seed=0)

What needs torch, and what the child has no use for, is loaded on first use: the child imports this package without
torch. `fingerprint` is in its module of that name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from selfdev_sandbox.contract import Limits, OpRecord, RunResult, SandboxError, Status

if TYPE_CHECKING:
    from selfdev_sandbox.fingerprint import Fingerprint, Probe, result_digest
    from selfdev_sandbox.supervisor import Sandbox
    from selfdev_sandbox.trace import Trace
    from selfdev_sandbox.trace_linear import LinearForm, linear_form
    from selfdev_sandbox.trace_replay import replay

__all__ = [
    "Limits",
    "OpRecord",
    "RunResult",
    "Sandbox",
    "SandboxError",
    "Status",
    "Trace",
    "LinearForm",
    "linear_form",
    "replay",
    "Fingerprint",
    "Probe",
    "result_digest",
]

_MODULE_OF = {
    "Sandbox": "supervisor",
    "Trace": "trace",
    "LinearForm": "trace_linear",
    "linear_form": "trace_linear",
    "replay": "trace_replay",
    "Fingerprint": "fingerprint",
    "Probe": "fingerprint",
    "result_digest": "fingerprint",
}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'selfdev_sandbox' has no attribute {name!r}")
    return getattr(import_module(f"selfdev_sandbox.{module}"), name)
