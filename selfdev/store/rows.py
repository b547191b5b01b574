"""What the store hands out and takes in: rows of its tables, and how those of programs and samples are made. Light."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from selfdev.types import ExecutionStatus, Sample, Split

RACE_BLOCK = "race block"  # the fact that holds the questions per round of a race; absent: no races
NOISE = "seed against itself"  # the fact that holds how many verdicts of the seed differed the second time
# Kinds of programs that every run is compared with. Other kinds of iteration 0 were asked for by a command.
BASELINE_KINDS = ("seed", "source", "mean", "example", "task_arithmetic")
AFTER = -1  # the iteration of programs made from one of a run's, once it has ended: tables of the run leave them out
STOPPED = "stopped after"  # the fact that holds the last iteration of a run that ended early, and why
TRANSFER = "transfer"  # the fact that holds what a transfer to other models was begun with
SEALED = "sealed test"  # the fact that holds the digest of the sealed test questions


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One program: generated, or a baseline (kind `seed`, `source`, `mean`, `example`, `task_arithmetic`)."""

    id: str
    kind: str  # "generated" or the kind of baseline
    name: str  # for people: "task arithmetic 0.2 0.4 0.6"; empty for generated ones
    iteration: int  # 0 for baselines, `AFTER` for what studies of a program make
    index: int
    checkpoint: str  # adapter directory relative to the run, "base", or "" for baselines
    temperature: float | None
    sample_seed: int | None
    text: str  # the sample as drawn, or the baseline's source
    source: str | None  # the extracted program; None where there is none
    tokens: int
    nll: float
    truncated: bool
    execution_seed: int  # seeds the program's own random draws
    status: ExecutionStatus | None = None  # None: not run yet
    error: str | None = None
    line: int | None = None
    operations: int = 0
    peak_bytes: int = 0
    result_hash: str | None = None
    duplicate_of: str | None = None
    fingerprint: str | None = None
    tags: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One sample that the generator's uncertainty is measured on: judged, never run, paired or counted."""

    id: str
    iteration: int
    step: int  # optimiser steps of the iteration's DPO stage before it; 0: by what wrote the iteration's programs
    time: float  # iteration plus the share of the stage's steps that are done
    index: int  # among those of one step
    checkpoint: str  # adapter directory relative to the run, or "base"
    temperature: float
    sample_seed: int
    text: str
    tokens: int
    nll: float
    truncated: bool


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """One question as the store knows it."""

    id: str
    split: Split
    prompt_hash: str
    skill: str
    block: int = 0  # of dev questions; 0 is the baselines'
    turn: int = 0  # place in its block
    held_out: bool = False  # no decision of a race sees it


@dataclass(frozen=True, slots=True)
class Opening:
    """One line of the ledger of the test set."""

    number: int  # 1, 2, ...
    opened_at: str  # UTC
    candidates: tuple[str, ...]
    questions: int


def candidate_id(kind: str, iteration: int, index: int, text: str) -> str:
    """12 hex digits that name a program within a run."""
    return hashlib.sha256(f"{kind}|{iteration}|{index}|{text}".encode()).hexdigest()[:12]


def program_row(kind: str, name: str, iteration: int, index: int, source: str, execution_seed: int) -> CandidateRow:
    """The row of a program that no generator wrote: a baseline, a method, a control's."""
    return CandidateRow(
        id=candidate_id(kind, iteration, index, source), kind=kind, name=name, iteration=iteration, index=index,
        checkpoint="", temperature=None, sample_seed=None, text=source, source=source, tokens=0, nll=0.0,
        truncated=False, execution_seed=execution_seed,
    )  # fmt: skip


def sample_row(
    sample: Sample,
    candidate_id: str,
    iteration: int,
    checkpoint: str,
    temperature: float,
    source: str | None,
    execution_seed: int,
    kind: str = "generated",
) -> CandidateRow:
    """The row of one drawn sample; a sample without a program has its outcome already."""
    return CandidateRow(
        id=candidate_id, kind=kind, name="", iteration=iteration, index=sample.index, checkpoint=checkpoint,
        temperature=temperature, sample_seed=sample.seed, text=sample.text, source=source, tokens=sample.tokens,
        nll=sample.nll, truncated=sample.truncated, execution_seed=execution_seed,
        status=None if source else ExecutionStatus.NO_CODE,
        error=None if source else "the sample defines no merge_models function",
    )  # fmt: skip
