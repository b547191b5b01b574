"""One device in this process: sandbox, task vectors and evaluator side by side.

The sandboxed child never sees a tensor: it sends operations, the server in this process runs them on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence

import torch
from selfdev_sandbox import Sandbox

from selfdev.errors import StageError
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
        digest, operations, peak = result_hash(ran.result), ran.operations, ran.peak_bytes
        if digest in known:
            return Outcome(status, None, None, digest, operations, peak)
        try:
            self._evaluator.apply(ran.result)
        except ValueError as refused:  # seed + merged overflows the seed's dtype, though merged itself is finite
            return Outcome(ExecutionStatus.INVALID, str(refused)[:500], None, None, operations, peak)
        del ran  # one task vector less while the engine needs its cache
        return Outcome(status, None, None, digest, operations, peak, self._answer(prompts))

    def forget(self) -> None:
        """Let go of the task vectors; the worker cannot run programs afterwards."""
        self._task_vectors = ()

    def _answer(self, prompts: Sequence[str]) -> tuple[Completion, ...]:
        try:
            return tuple(self._evaluator.generate(prompts))
        except torch.OutOfMemoryError as error:
            raise StageError(
                f"the device ran out of memory answering {len(prompts)} questions; lower evaluate.batch_size "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        finally:
            self._evaluator.restore()


def result_hash(merged: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names given. -0.0 and 0.0 count as equal."""
    digest = hashlib.sha256()
    for name, tensor in merged.items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        canonical = (tensor + 0.0).cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(canonical.data)
    return digest.hexdigest()
