"""Samples that the generator's uncertainty is measured on: which, and drawing them. Whole recorded batches stay.

A point of the curve is a moment of training: before an iteration's DPO stage, or after some of its optimiser steps. At
each point equally many samples are drawn at one temperature, from random streams of their own, so that drawing at
checkpoints changes no program of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfdev.evaluation import Run
from selfdev.generate import sample_requests
from selfdev.store import MeasuredRow, candidate_id
from selfdev.trainers.base import step_directory
from selfdev.types import SampleRequest, TrainReport


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of a run's training."""

    iteration: int
    step: int = 0  # optimiser steps of its DPO stage that are done; 0: the generator that wrote its programs
    share: float = 0.0  # of the stage's learning that is done, by the learning rates of its steps

    @property
    def time(self) -> float:
        """The iteration plus the share of its stage's learning that is done.

        The learning rate falls to 0 in a stage: by the steps alone, half a stage would look as if it had learned fast.
        """
        return self.iteration + self.share

    @property
    def stream(self) -> str:
        """What names its samples' random streams."""
        return f"measure step {self.step}" if self.step else "measure"


def points_inside(iteration: int, report: TrainReport) -> list[Point]:
    """The checkpoints of an iteration's DPO stage, in order."""
    return [Point(iteration, saved.step, saved.share) for saved in report.checkpoints]


def missing_samples(run: Run, point: Point) -> list[SampleRequest]:
    """What is still to be drawn at a point."""
    drawn = len(run.store.measured(point.iteration, point.step))
    return sample_requests(run.config.seed, point.iteration, range(drawn, run.config.gap.samples), point.stream)


def draw_at(run: Run, point: Point, requests: Sequence[SampleRequest], checkpoint: str) -> None:
    """Draw and record samples from the generator as it is loaded.

    Args:
        run: the run.
        point: where it stands.
        requests: of `missing_samples`.
        checkpoint: how the store names the loaded adapter.
    """
    with run.view.phase(run.directory, point.iteration, "measure", len(requests)) as advance:
        _draw(run, point, requests, checkpoint, advance)


def draw_inside(run: Run, iteration: int, report: TrainReport) -> None:
    """Draw the samples of all checkpoints of an iteration's DPO stage, those that are not recorded."""
    waiting = [(point, missing_samples(run, point)) for point in points_inside(iteration, report)]
    total = sum(len(requests) for _, requests in waiting)
    if not total:
        return
    with run.view.phase(run.directory, iteration, "measure", total) as advance:
        try:
            for point, requests in waiting:
                if requests:
                    adapter = step_directory(run.directory.checkpoint(iteration), point.step)
                    run.parts.generator.load(adapter)
                    _draw(run, point, requests, run.directory.checkpoint_name(adapter), advance)
        finally:
            run.parts.generator.close()


def _draw(
    run: Run, point: Point, requests: Sequence[SampleRequest], checkpoint: str, advance: Callable[[int], None]
) -> None:
    heat, kind = run.config.gap.temperature, f"measured {point.step}" if point.step else "measured"
    for batch in run.parts.generator.sample(run.parts.prompt, requests, heat):
        run.store.add_measured(
            MeasuredRow(candidate_id(kind, point.iteration, s.index, s.text), point.iteration, point.step, point.time,
                        s.index, checkpoint, heat, s.seed, s.text, s.tokens, s.nll, s.truncated)
            for s in batch
        )  # fmt: skip
        advance(len(batch))
