"""One device in this process: sandbox, task vectors and evaluator side by side.

The sandboxed child never sees a tensor: it sends operations, the server in this process runs them on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence

import torch
from selfdev_sandbox import Sandbox

from selfdev.evaluators.base import Evaluator
from selfdev.types import Completion, ExecutionStatus, MergeProgram, Outcome


class LocalWorker:
    """Runs programs on one device, in the calling process."""

    def __init__(
        self, sandbox: Sandbox, evaluator: Evaluator, task_vectors: Sequence[Mapping[str, torch.Tensor]]
    ) -> None:
        self._sandbox = sandbox
        self._evaluator = evaluator
        self._task_vectors = task_vectors
        self.isolation = sandbox.level

    def run(self, program: MergeProgram, prompts: Sequence[str], known: Container[str]) -> Outcome:
        """See `Worker.run`."""
        ran = self._sandbox.run(program.source, self._task_vectors, seed=program.seed)
        status = ExecutionStatus(str(ran.status))
        if ran.result is None:
            return Outcome(status, ran.error, ran.line, None, ran.operations, ran.peak_bytes)
        digest = result_hash(ran.result)
        if digest in known:
            return Outcome(status, None, None, digest, ran.operations, ran.peak_bytes)
        try:
            self._evaluator.apply(ran.result)
        except ValueError as refused:  # seed + merged overflows the seed's dtype, though merged itself is finite
            return Outcome(ExecutionStatus.INVALID, str(refused)[:500], None, None, ran.operations, ran.peak_bytes)
        completions = self._answer(prompts)
        return Outcome(status, None, None, digest, ran.operations, ran.peak_bytes, completions)

    def _answer(self, prompts: Sequence[str]) -> tuple[Completion, ...]:
        try:
            return tuple(self._evaluator.generate(prompts))
        finally:
            self._evaluator.restore()


def result_hash(merged: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names given. -0.0 and 0.0 count as equal."""
    digest = hashlib.sha256()
    for name, tensor in merged.items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        canonical = (tensor + 0.0).contiguous().cpu()
        digest.update(canonical.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
