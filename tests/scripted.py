"""Scripted parts: the whole loop in milliseconds, with real store, real files, real pairing."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

from selfdev.compute.scripted import ScriptedWorker
from selfdev.config import RunConfig, load_config
from selfdev.generators.scripted import ScriptedGenerator
from selfdev.grading.gsm8k import grade_strict
from selfdev.tasks.base import Task
from selfdev.trainers.scripted import ScriptedTrainer
from selfdev.types import Question
from selfdev.wiring import Parts

DEV = tuple(Question(f"dev-{i}", f"Question: dev {i}\nAnswer:", str(i + 1), "add") for i in range(20))
TEST = tuple(Question(f"test-{i}", f"Question: test {i}\nAnswer:", str(i + 1), "sub") for i in range(40))


def write(index: int, temperature: float, adapter: Path | None) -> str:
    """Sample `index`: every fifth has no program, every fifth fails; quality grows with the adapter's number."""
    if index % 5 == 3:
        return "I would rather not."
    learned = 0 if adapter is None else int(adapter.name.rsplit("-", 1)[1])
    quality = "fails" if index % 5 == 4 else f"{min(1.0, 0.05 * ((7 * index) % 11) + 0.03 * learned):.2f}"
    return f"import torch\n\n\ndef merge_models(task_vectors):\n    return {index}  # quality {quality}\n```"


def quality(source: str) -> float | None:
    """What `ScriptedWorker` makes of a source: its comment, or 0.4 for human-designed merges."""
    found = re.search(r"# quality (\S+)", source)
    if found is None:
        return 0.4 if "torch.zeros_like(tensor)" not in source else 0.3
    return None if found.group(1) == "fails" else float(found.group(1))


def scripted_config(**overrides: object) -> RunConfig:
    """A small configuration for the scripted parts."""
    return load_config(
        overrides={"generate.samples": 20, "task.dev_size": 20, "task.test_size": 40, "pair.chosen_share": 0.1,
                   **overrides}
    )  # fmt: skip


def scripted_parts(samples: object = write, quality_of: object = quality) -> Parts:
    """Parts that need no model, no sandbox and no torch."""
    answers = {q.prompt: f" #### {q.gold}" for q in DEV + TEST}
    return Parts(
        task=Task("scripted", DEV, TEST, ("Question:",), 8, grade_strict),
        prompt="Write a merge function.\n",
        generator=ScriptedGenerator(samples, batch_size=4),  # type: ignore[arg-type]
        trainer=ScriptedTrainer(),
        open_worker=lambda: nullcontext(ScriptedWorker(quality_of, answers)),  # type: ignore[arg-type]
        facts={"prompt": "scripted"},
    )
