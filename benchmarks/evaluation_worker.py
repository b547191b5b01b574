"""The half of bench_evaluation.py that evaluates candidates with one of our engines, in an environment that has it.

    python evaluation_worker.py JOB.json OUT.json

What is timed per candidate is what the search pays: fingerprint, two sandboxed runs, weights put in place, answers,
weights put back. Loading is timed apart: a search pays it once per phase.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from selfdev_sandbox import Limits, Sandbox

from selfdev import wiring
from selfdev.compute.local import LocalWorker
from selfdev.config import load_config
from selfdev.score import score, summarise
from selfdev.task_vectors import load_task_vectors
from selfdev.tasks import load_questions
from selfdev.types import MergeProgram, Outcome


class Timed:
    """An evaluator whose methods add up their time by name."""

    def __init__(self, evaluator: Any) -> None:
        self._evaluator = evaluator
        self.seconds: dict[str, float] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._evaluator, name)

        def call(*arguments: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

        return call


def main(job_file: str, out_file: str) -> None:
    """Evaluate every candidate `repeats` times."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    config = load_config(None, None, job["settings"])
    torch.set_num_threads(config.threads)
    begin = time.perf_counter()
    task = load_questions(config.task, job["limit"], config.seed)
    vectors = load_task_vectors(config.models.seed, config.models.sources)
    evaluator = wiring.open_evaluator(config, task, "cpu")
    prompts = [question.prompt for question in task.dev]
    evaluator.self_check(prompts[: wiring.SELF_CHECK_PROMPTS])
    opening = time.perf_counter() - begin
    timed = Timed(evaluator)
    with Sandbox(Limits(seconds=120.0), "cpu", frozenset(config.sandbox.allow_missing)) as sandbox:
        worker = LocalWorker(sandbox, timed, vectors.vectors)
        rows = []
        for name, source in job["candidates"].items():
            for _ in range(job["repeats"]):
                timed.seconds.clear()
                begin = time.perf_counter()
                outcome = worker.run(MergeProgram("0" * 12, source, 0), prompts, ())
                rows.append(
                    {"candidate": name, "seconds": time.perf_counter() - begin, **figures(task, outcome, timed)}
                )
    evaluator.close()
    Path(out_file).write_text(json.dumps({"opening_seconds": opening, "rows": rows}), encoding="utf-8")


def figures(task: Any, outcome: Outcome, timed: Timed) -> dict[str, Any]:
    """What a candidate answered, and where its time went."""
    if outcome.completions is None:
        raise SystemExit(f"a candidate did not run: {outcome.status}, {outcome.error}")
    result = summarise(score(task.dev, outcome.completions, task.grade))
    return {
        "correct": result.correct,
        "questions": result.total,
        "new_tokens": sum(completion.tokens for completion in outcome.completions),
        "swap_seconds": timed.seconds["apply"] + timed.seconds["restore"],
        "generate_seconds": timed.seconds["generate"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
