"""A fake worker: outcomes from a function of the program's source. For tests of the loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from selfdev.types import Completion, ExecutionStatus, MergeProgram, Outcome


class ScriptedWorker:
    """Answers question i correctly in `quality(source)` of the cases; None makes the program fail.

    A correct answer is the text in `answers[prompt]`, a wrong one is " #### -1".
    """

    isolation = "scripted"

    def __init__(self, quality: Callable[[str], float | None], answers: dict[str, str]) -> None:
        self._quality = quality
        self._answers = answers
        self.runs: list[str] = []  # ids of programs run, in order
        self.again_runs: list[str] = []

    def run(self, program: MergeProgram, prompts: Sequence[str], known: Container[str]) -> Outcome:
        """See `Worker.run`."""
        self.runs.append(program.id)
        quality = self._quality(program.source)
        if quality is None:
            return Outcome(ExecutionStatus.EXCEPTION, "line 1: scripted failure", 1)
        digest = hashlib.sha256(f"{quality}".encode()).hexdigest()
        mark = digest[:32]  # programs of one quality share their bits, and so their fingerprint
        if mark in known:
            return Outcome(ExecutionStatus.OK, fingerprint=mark)
        outcome = Outcome(ExecutionStatus.OK, None, None, digest, 1, 1, None, mark, ("scripted",))
        if digest in known:
            return outcome
        return replace(outcome, completions=self._answer(quality, prompts))

    def again(self, program: MergeProgram, prompts: Sequence[str], expected: str) -> Outcome:
        """See `Worker.again`."""
        self.again_runs.append(program.id)
        quality = self._quality(program.source)
        if quality is None or hashlib.sha256(f"{quality}".encode()).hexdigest() != expected:
            return Outcome(ExecutionStatus.NONDETERMINISTIC, "a second run gave other bits")
        return Outcome(ExecutionStatus.OK, None, None, expected, 1, 1, self._answer(quality, prompts))

    def _answer(self, quality: float, prompts: Sequence[str]) -> tuple[Completion, ...]:
        right = round(quality * len(prompts))
        texts = [self._answers[p] if i < right else " #### -1" for i, p in enumerate(prompts)]
        return tuple(Completion(t, 4, False) for t in texts)
