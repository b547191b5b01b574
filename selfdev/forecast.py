"""What a run will cost, measured before it starts: one dev evaluation of the seed and one batch of samples are timed.

The same probe is the start-up check: models load and fit, the sandbox is walled, the generator writes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from selfdev import baselines
from selfdev.config import RunConfig
from selfdev.errors import StageError
from selfdev.generate import extract_program, sample_requests
from selfdev.types import ExecutionStatus, MergeProgram
from selfdev.wiring import Parts

TRAIN_START_SECONDS = 12.0  # starting the trainer's process and importing TRL, two CPU cores
TRAIN_PASSES = 1.2  # time per trained over time per sampled token: four passes, but many tokens at once (zoo, CPU)
ITERATION_OVERHEAD = 3.0  # opening engines, writing files
JUDGE_SHARE = 0.25  # time per judged over time per written sample, for each verifier (zoo, CPU)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Counts are exact upper bounds; seconds are extrapolated from the probe."""

    samples: int
    measured_samples: int  # of the gap: drawn and judged, never run
    baseline_evaluations: int
    candidate_evaluations: int  # at most: every sample valid and new
    questions: int  # per evaluation
    test_questions: int
    evaluation_seconds: float  # measured, one evaluation
    sample_seconds: float  # measured, one sample
    train_seconds: float  # estimated, all DPO stages
    judge_seconds: float  # estimated, all verifiers on all samples
    load_seconds: float  # of the generator, every time: measured for one
    isolation: str

    def minutes(self, valid_share: float) -> float:
        """Forecast wall-clock minutes when this share of the samples is valid and new."""
        evaluations = self.baseline_evaluations + valid_share * self.candidate_evaluations
        sampling = (self.samples + self.measured_samples) * self.sample_seconds
        rest = self.train_seconds + self.judge_seconds + self.load_seconds
        return (evaluations * self.evaluation_seconds + sampling + rest) / 60


def measure(config: RunConfig, parts: Parts) -> Forecast:
    """Time one evaluation and one batch of samples.

    Raises:
        ModelError, StageError: a part of the run does not work.
    """
    rows = baselines.table(config.models.sources, extract_program(parts.prompt))
    with parts.open_worker() as worker:
        begun = time.monotonic()
        outcome = worker.run(MergeProgram("0" * 12, rows[0].source, 0), [q.prompt for q in parts.task.block(0)], ())
        evaluation_seconds = time.monotonic() - begun
        if outcome.status is not ExecutionStatus.OK:
            raise StageError(f"the seed does not run in the sandbox: {outcome.status}, {outcome.error}")
        isolation = worker.isolation
    count = min(config.generate.samples, config.generate.batch_size)
    requests = sample_requests(config.seed, 0, range(count))
    try:
        opened = time.monotonic()
        parts.generator.load(None)
        begun = time.monotonic()
        tokens = sum(s.tokens for batch in parts.generator.sample(parts.prompt, requests, config.generate.temperature)
                     for s in batch)  # fmt: skip
        sampling = time.monotonic() - begun
    finally:
        parts.generator.close()
    judged = config.iterations * (config.generate.samples + config.gap.drawn) * len(config.gap.verifiers)
    return Forecast(
        samples=config.iterations * config.generate.samples,
        measured_samples=config.iterations * config.gap.drawn,
        baseline_evaluations=len(rows) + (config.blocks - 1) * (1 + config.dev.finalists) + 1,  # the seed twice
        candidate_evaluations=config.iterations * config.generate.samples,
        questions=len(parts.task.block(0)),
        test_questions=len(parts.envelope.questions),
        evaluation_seconds=evaluation_seconds,
        sample_seconds=sampling / count,
        train_seconds=config.iterations * (_train_seconds(config, sampling / max(tokens, 1), tokens / count)),
        judge_seconds=judged * JUDGE_SHARE * sampling / count,
        load_seconds=config.iterations * (1 + config.gap.inside) * (begun - opened),
        isolation=isolation,
    )


def _train_seconds(config: RunConfig, token_seconds: float, tokens: float) -> float:
    chosen = max(1.0, config.pair.chosen_share * config.generate.samples) + config.pair.elites
    rejected = max(1.0, config.pair.rejected_share * config.generate.samples)
    pairs = min(config.pair.max_pairs, chosen * rejected) * config.train.epochs
    if config.train.max_steps is not None:
        pairs = min(pairs, config.train.max_steps * config.train.batch_size)
    return TRAIN_START_SECONDS + ITERATION_OVERHEAD + pairs * 2 * tokens * token_seconds * TRAIN_PASSES
