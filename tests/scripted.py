"""Scripted parts: the whole loop in milliseconds, with real store, real files, real pairing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from selfdev.compute.scripted import ScriptedWorker
from selfdev.config import RunConfig, load_config
from selfdev.generators.scripted import ScriptedGenerator
from selfdev.grading.gsm8k import grade_strict
from selfdev.sealed import seal
from selfdev.tasks.base import Task
from selfdev.trainers.scripted import ScriptedTrainer
from selfdev.types import Completion, Question
from selfdev.verifiers.base import Verifier
from selfdev.verifiers.recorded import Likelihood, Majority
from selfdev.verifiers.scripted import ScriptedVerifier
from selfdev.wiring import Parts

DEV = tuple(Question(f"dev-{i}", f"Question: dev {i}\nAnswer:", str(i + 1), "add") for i in range(20))
BLOCKS = tuple(Question(f"dev-{i}", f"Question: dev {i}\nAnswer:", str(i + 1), "add") for i in range(8 * 40))
TEST = tuple(Question(f"test-{i}", f"Question: test {i}\nAnswer:", str(i + 1), "sub") for i in range(40))


def learned_by(adapter: Path | None) -> int:
    """How many stages an adapter has behind it; one inside a stage counts as that stage's end."""
    if adapter is None:
        return 0
    stage = adapter.parent if adapter.name.startswith("step-") else adapter
    return int(stage.name.rsplit("-", 1)[1])


def write(index: int, temperature: float, adapter: Path | None) -> str:
    """Sample `index`: every fifth has no program, every fifth fails; quality grows with the adapter's number."""
    if index % 5 == 3:
        return "I would rather not."
    learned = learned_by(adapter)
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
                   "dev.resample": "fixed", "race.enabled": False, "gap.resamples": 100,
                   "gap.samples": 20, "gap.checkpoints": 0, **overrides}
    )  # fmt: skip


def racing_config(**overrides: object) -> RunConfig:
    """The same with fresh questions in every iteration, and races."""
    given = {"dev.resample": "iteration", "race.enabled": True, "race.block": 8, "race.keep": 3, "race.held_out": 0.3,
             "race.alpha": 0.1, "task.dev_size": 40}  # fmt: skip
    return scripted_config(**{**given, **overrides})


def open_verifiers(names: Sequence[str], adapter: Path | None) -> AbstractContextManager[list[Verifier]]:
    """Those that need no model as they are; the others score by a hash of the text."""
    pure: dict[str, Verifier] = {"likelihood": Likelihood(), "majority": Majority()}
    return nullcontext([pure.get(name) or ScriptedVerifier(name, _hashed) for name in names])


def _hashed(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


class HashedWorker(ScriptedWorker):
    """Right on a question with the chance `quality`, by a hash of both: whatever else is asked, in whatever order."""

    cut: float | None = None  # programs of this quality write without end
    again_prompts: list[tuple[str, tuple[str, ...]]]  # (program, what it was asked), in order

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.again_prompts = []

    def again(self, program, prompts, expected):  # type: ignore[no-untyped-def]
        self.again_prompts.append((program.id, tuple(prompts)))
        return super().again(program, prompts, expected)

    def _answer(self, quality: float, prompts: Sequence[str]) -> tuple[Completion, ...]:
        def share(prompt: str) -> float:
            return int(hashlib.sha256(f"{quality}|{prompt}".encode()).hexdigest()[:12], 16) / 16**12

        texts = [self._answers[p] if share(p) < quality else " #### -1" for p in prompts]
        return tuple(Completion(t, 4, quality == self.cut) for t in texts)


def write_spread(index: int, temperature: float, adapter: Path | None) -> str:
    """Sample `index` of an iteration: the eighth fails, all others differ, from useless to nearly perfect."""
    learned = learned_by(adapter)
    quality = "fails" if index % 12 == 7 else f"{((37 * index + 5 + 11 * learned) % 97) / 100:.3f}"
    return f"import torch\n\n\ndef merge_models(task_vectors):\n    return {index}  # quality {quality}\n```"


def racing_parts(
    blocks: int = 3,
    workers: list[ScriptedWorker] | None = None,
    worker_class: type[ScriptedWorker] = HashedWorker,
    quality_of: object = quality,
) -> Parts:
    """Parts for `racing_config` with programs of every quality, whose answers have chance in them."""
    return scripted_parts(write_spread, quality_of, blocks, workers, worker_class)


def scripted_parts(
    samples: object = write,
    quality_of: object = quality,
    blocks: int = 1,
    workers: list[ScriptedWorker] | None = None,
    worker_class: type[ScriptedWorker] = ScriptedWorker,
) -> Parts:
    """Parts that need no model, no sandbox and no torch; several `blocks` have 40 dev questions each."""
    dev = DEV if blocks == 1 else BLOCKS[: 40 * blocks]
    answers = {q.prompt: f" #### {q.gold}" for q in dev + TEST}
    task, envelope = seal(Task("scripted", dev, TEST, ("Question:",), 8, grade_strict, blocks=blocks))

    def open_worker() -> AbstractContextManager[ScriptedWorker]:
        worker = worker_class(quality_of, answers)  # type: ignore[arg-type]
        if workers is not None:
            workers.append(worker)
        return nullcontext(worker)

    return Parts(
        task=task,
        envelope=envelope,
        prompt="Write a merge function.\n",
        generator=ScriptedGenerator(samples, batch_size=4),  # type: ignore[arg-type]
        trainer=ScriptedTrainer(),
        open_worker=open_worker,
        open_verifiers=open_verifiers,
        facts={"prompt": "scripted"},
    )
