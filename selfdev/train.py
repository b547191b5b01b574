"""The training stage of the loop: preference pairs to the next generator adapter. Done work is not done twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfdev.trainers.base import OnProgress, Trainer, check_adapters, read_report
from selfdev.types import PreferencePair, TrainReport

NOTHING_TO_LEARN = TrainReport(steps=0, pairs=0, loss=0.0, reward_margin=0.0, reward_accuracy=0.0)


def train(
    trainer: Trainer,
    base: str,
    previous: Path | None,
    pairs: Sequence[PreferencePair],
    out: Path,
    seed: int,
    on_progress: OnProgress | None = None,
    checkpoints: int = 0,
) -> tuple[Path | None, TrainReport]:
    """The adapter to sample from next, and what its training did; `checkpoints` adapters are saved on the way.

    A stage that is at `out` already is taken as it is. Without pairs nothing is trained: the generator stays at
    `previous` (None: the base model), and the report says 0 steps.

    Raises:
        RunError: `out` is there but holds no finished adapter, or another than was trained.
        StageError: training failed; nothing is at `out`.
    """
    if not pairs:
        return previous, NOTHING_TO_LEARN
    report = read_report(out)
    if report is None:
        report = trainer.train(base, previous, pairs, out, seed, on_progress, checkpoints)
    else:
        check_adapters(out, report)
    return out, report
