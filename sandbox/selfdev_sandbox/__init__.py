"""Run untrusted tensor programs: a program without torch, a tensor server that runs what it asks for.

    from selfdev_sandbox import Limits, Sandbox

    with Sandbox(limits=Limits(seconds=5)) as box:
        outcome = box.run(source, task_vectors, seed=0)

`Sandbox` is loaded on first use, so that the child can import this package without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfdev_sandbox.contract import Limits, OpRecord, RunResult, SandboxError, Status

if TYPE_CHECKING:
    from selfdev_sandbox.supervisor import Sandbox

__all__ = ["Limits", "OpRecord", "RunResult", "Sandbox", "SandboxError", "Status"]


def __getattr__(name: str) -> Any:
    if name == "Sandbox":
        from selfdev_sandbox.supervisor import Sandbox

        return Sandbox
    raise AttributeError(f"module 'selfdev_sandbox' has no attribute {name!r}")
