"""One device in this process: sandbox, task vectors and evaluator side by side.

The sandboxed child never sees a tensor: it sends operations, the server in this process runs them on the device.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from selfdev_sandbox import Probe, Sandbox
from selfdev_sandbox.fingerprint import Fingerprint, fingerprint

from selfdev.errors import EngineError, StageError
from selfdev.evaluators.base import Evaluator
from selfdev.types import Completion, ExecutionStatus, MergeProgram, Outcome

PROBE_SECONDS = 5.0  # limit of one run on a probe
PROBE_SEED = 0  # the same for all programs, so that their digests compare


class LocalWorker:
    """Runs programs on one device, in the calling process."""

    def __init__(
        self,
        sandbox: Sandbox,
        evaluator: Evaluator,
        task_vectors: Sequence[Mapping[str, torch.Tensor]],
        cache_bytes: int = 0,
    ) -> None:
        """`cache_bytes` of main memory keep merged task vectors for `again`."""
        self._kept = MergedCache(cache_bytes)
        self._sandbox = sandbox
        self._evaluator = evaluator
        self._task_vectors = task_vectors
        self._probe: Probe | None = None
        self.isolation = sandbox.level

    def run(self, program: MergeProgram, prompts: Sequence[str], known: Container[str]) -> Outcome:
        """See `Worker.run`. A program whose merged weights bring the engine down is run once more: it may be chance."""
        with suppress(EngineError):
            return self._run(program, prompts, known)
        try:
            return self._run(program, prompts, known)
        except EngineError as error:
            return Outcome(ExecutionStatus.CRASH, f"the engine failed twice: {error}"[:500])

    def again(self, program: MergeProgram, prompts: Sequence[str], expected: str) -> Outcome:
        """See `Worker.again`. An engine that fails is tried once more, as in `run`."""
        with suppress(EngineError):
            return self._again(program, prompts, expected)
        try:
            return self._again(program, prompts, expected)
        except EngineError as error:
            return Outcome(ExecutionStatus.CRASH, f"the engine failed twice: {error}"[:500])

    def forget(self) -> None:
        """Let go of the task vectors; the worker cannot run programs afterwards."""
        self._kept = MergedCache(0)
        self._task_vectors = ()
        self._sandbox.forget()

    def _run(self, program: MergeProgram, prompts: Sequence[str], known: Container[str]) -> Outcome:
        mark = self._fingerprint(program.source, known)
        if mark.digest in known:
            return Outcome(ExecutionStatus.OK, fingerprint=mark.digest)
        ran = self._sandbox.run(program.source, self._task_vectors, seed=program.seed, verify=True)
        outcome = Outcome(ExecutionStatus(str(ran.status)), ran.error, ran.line, None, ran.operations, ran.peak_bytes)
        if ran.result is None:
            return outcome
        tags = tuple(sorted(mark.tags))
        outcome = replace(outcome, result_hash=result_hash(ran.result), fingerprint=mark.digest, tags=tags)
        if outcome.result_hash in known:
            return outcome
        try:
            self._evaluator.apply(ran.result)
        except ValueError as refused:  # seed + merged overflows the seed's dtype, though merged itself is finite
            return replace(
                outcome, status=ExecutionStatus.INVALID, error=str(refused)[:500], result_hash=None, fingerprint=None
            )
        self._kept.put(str(outcome.result_hash), ran.result)
        del ran  # one task vector less while the engine needs its cache
        return replace(outcome, completions=self._answer(prompts))

    def _again(self, program: MergeProgram, prompts: Sequence[str], expected: str) -> Outcome:
        merged = self._kept.get(expected)
        if merged is None:
            ran = self._sandbox.run(program.source, self._task_vectors, seed=program.seed)
            if ran.result is None:
                return Outcome(ExecutionStatus(str(ran.status)), ran.error, ran.line)
            if result_hash(ran.result) != expected:
                return Outcome(ExecutionStatus.NONDETERMINISTIC, "a later run gave other bits")
            merged = ran.result
            self._kept.put(expected, merged)
        if not prompts:
            return Outcome(ExecutionStatus.OK, result_hash=expected, completions=())
        self._evaluator.apply(merged)
        return Outcome(ExecutionStatus.OK, result_hash=expected, completions=self._answer(prompts))

    def _fingerprint(self, source: str, known: Container[str]) -> Fingerprint:
        if self._probe is None:
            self._probe = Probe.like(self._task_vectors)
        limits = self._sandbox.limits
        limits = replace(limits, seconds=min(PROBE_SECONDS, limits.seconds))
        return fingerprint(self._sandbox, source, PROBE_SEED, self._probe, known, limits)

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


class MergedCache:
    """Merged task vectors by result hash, in main memory; the least recently used go first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity  # bytes
        self._held: OrderedDict[str, Mapping[str, torch.Tensor]] = OrderedDict()
        self._bytes = 0

    def put(self, key: str, merged: Mapping[str, torch.Tensor]) -> None:
        """Keep a copy, if there is room for it at all."""
        size = _size(merged)
        if size > self._capacity or key in self._held:
            return
        while self._bytes + size > self._capacity:
            self._bytes -= _size(self._held.popitem(last=False)[1])
        self._held[key] = {name: tensor.detach().to("cpu", copy=True) for name, tensor in merged.items()}
        self._bytes += size

    def get(self, key: str) -> Mapping[str, torch.Tensor] | None:
        """What was kept, None where it is gone."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)


def _size(merged: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in merged.values())


def result_hash(merged: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names given. -0.0 and 0.0 count as equal."""
    digest = hashlib.sha256()
    for name, tensor in merged.items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        canonical = (tensor + 0.0).cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(canonical.data)
    return digest.hexdigest()
