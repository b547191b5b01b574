"""Domain types: frozen, plain, free of I/O. Each field is documented once, here.

Words: a *task vector* is source minus seed; a *candidate* is one sampled merge program; its *dev score* is the number
of dev questions its merged model answers; a *preference pair* is a better and a worse program for one prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ExecutionStatus(StrEnum):
    """How running a candidate ended. An outcome is not a score: only `OK` candidates can have one."""

    OK = "ok"
    NO_CODE = "no_code"  # the sample holds no `merge_models` function
    SYNTAX = "syntax"  # not Python, or beyond the source limits
    UNSUPPORTED = "unsupported"  # uses a name or construct the tensor programs do not offer
    VIOLATION = "violation"  # reached for something forbidden
    EXCEPTION = "exception"  # raised
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASH = "crash"  # the child died, or the engine did, twice, with the merged weights in it
    INVALID = "invalid"  # wrong names, shapes, dtype, non-finite values or norm
    NONDETERMINISTIC = "nondeterministic"  # a second run gave other bits

    @property
    def parsed(self) -> bool:
        """The sample held Python that compiles."""
        return self not in (ExecutionStatus.NO_CODE, ExecutionStatus.SYNTAX)

    @property
    def has_result(self) -> bool:
        """There is a merged model, so there can be a score."""
        return self is ExecutionStatus.OK

    @property
    def ran(self) -> bool:
        """The program came to its end and returned something."""
        return self in (ExecutionStatus.OK, ExecutionStatus.INVALID, ExecutionStatus.NONDETERMINISTIC)


class Split(StrEnum):
    """Which questions: search, pairing and training see only `DEV`."""

    DEV = "dev"
    TEST = "test"
    STUDY = "study"  # drawn like dev, beyond what the run asked: for looking into one program afterwards


@dataclass(frozen=True, slots=True)
class Question:
    """One problem as the solver sees it, with the answer it never sees."""

    id: str  # stable over runs: task, split and content
    prompt: str  # the whole text given to the model, few-shot prefix included
    gold: str  # the reference answer, normalised
    skill: str = ""  # sub-skill or subject, for breakdowns


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote after one prompt."""

    text: str  # decoded, cut at the first stop string, special tokens removed
    tokens: int  # tokens generated, the end-of-sequence token included
    truncated: bool  # the token limit ended it, not the model or a stop string


@dataclass(frozen=True, slots=True)
class Answer:
    """One graded (candidate, question) result: the unit of durability."""

    question_id: str
    completion: Completion
    extracted: str | None  # None: no answer could be parsed
    correct: bool
    repetitive: bool = False  # the text ends in a loop
    timed_out: bool = False  # comparing it with the reference took too long; counted as wrong


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to draw; its random stream depends on nothing but `seed`."""

    index: int  # 0 <= index < samples, within the iteration
    seed: int  # 64 bits, derived from (run seed, "generate", iteration, index)


@dataclass(frozen=True, slots=True)
class Sample:
    """One text drawn from the generator."""

    index: int
    seed: int
    text: str  # the completion, without the prompt
    tokens: int  # tokens drawn, the end-of-sequence token included
    nll: float  # -sum of log pi(token) at temperature 1, in nats, over `tokens`
    truncated: bool  # the token limit ended it


@dataclass(frozen=True, slots=True)
class MergeProgram:
    """A merge program ready to run."""

    id: str  # 12 hex digits
    source: str  # Python text that defines merge_models(task_vectors)
    seed: int  # seeds every random draw the program makes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of running one program, and, where it is new and valid, of its merged model."""

    status: ExecutionStatus
    error: str | None = None  # one printable line, at most 500 characters
    line: int | None = None  # the program's line that failed
    result_hash: str | None = None  # SHA-256 of the merged task vector's bytes; set when status is OK
    operations: int = 0  # tensor operations run for it
    peak_bytes: int = 0  # largest live tensor memory of the program
    completions: tuple[Completion, ...] | None = None  # one per prompt asked for; None when not generated
    fingerprint: str | None = None  # digest of its results on small probes; None where they say nothing
    tags: tuple[str, ...] = ()  # what the probes showed: "linear", "order-dependent", ...; see selfdev_sandbox


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate with everything that pairing, the gap and reports need."""

    id: str
    iteration: int  # 1, 2, ...
    index: int
    source: str
    completion: str  # the sample's text as the generator wrote it
    status: ExecutionStatus
    correct: int | None  # dev questions answered correctly; None is "no score". After a race: held-out questions only
    total: int  # dev questions of the score; 0 where there is no score
    nll: float
    tokens: int
    duplicate_of: str | None = None  # the earlier candidate with the same merged task vector, or the same fingerprint
    refused: str | None = None  # why it is scored but not ranked: too many of its answers were cut short
    seed_correct: int = 0  # the seed's right answers to the questions of the score
    standing: RaceStanding | None = None  # None: no race, or it did not take part
    opening_correct: int | None = None  # of the questions that all programs of the iteration answered: never selected
    opening_total: int = 0
    final_correct: int | None = None  # of the questions that the best of all iterations answered beside the baselines
    final_total: int = 0
    opening_seed: int = 0  # the seed's right answers to the questions of `opening_total`

    @property
    def score(self) -> float | None:
        """Dev score in [0, 1]; None where the candidate was not scored."""
        return None if self.correct is None else self.correct / self.total

    @property
    def gain(self) -> float | None:
        """Dev score minus the seed's on the same questions; None where the candidate was not scored."""
        return None if self.correct is None else (self.correct - self.seed_correct) / self.total

    @property
    def measured(self) -> float | None:
        """The score; for who left a race, the share of right answers until then, which estimates nothing."""
        if self.score is None and self.standing is not None:
            return self.standing.correct / max(1, self.standing.asked)
        return self.score

    @property
    def opening_score(self) -> float | None:
        """Share of right answers before any decision about the candidate; without a race, the score."""
        return self.score if self.opening_correct is None else self.opening_correct / self.opening_total

    @property
    def final_score(self) -> float | None:
        """Share of right answers in the finals; None where it was not in them."""
        return None if self.final_correct is None else self.final_correct / self.final_total

    @property
    def rank_gain(self) -> float | None:
        """What orders candidates of several iterations: the gain, or for who left a race its gain until then."""
        if self.gain is not None or self.standing is None:
            return self.gain
        return (self.standing.wins - self.standing.losses) / max(1, self.standing.asked)


@dataclass(frozen=True, slots=True)
class RaceStanding:
    """Where a candidate ended in the race of its iteration. Orders candidates, estimates nothing."""

    place: int  # 0 is the best
    asked: int  # race questions
    correct: int
    wins: int  # questions that it answers and the seed does not
    losses: int
    dropped: str | None  # futile, beaten, budget or refused; None: it reached the end of the race
    finalist: bool  # it has answered the held-out questions


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One row of DPO data."""

    prompt: str
    chosen: str
    rejected: str
    chosen_id: str
    rejected_id: str
    chosen_score: float
    rejected_score: float | None  # None: the rejected program failed


@dataclass(frozen=True, slots=True)
class StageCheckpoint:
    """An adapter that was saved inside a DPO stage."""

    step: int  # optimiser steps done, below those of the stage
    digest: str  # SHA-256 of its weights file, hexadecimal
    share: float  # of the stage's learning: the learning rates of its steps so far over those of all


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What one DPO stage did. Loss and margins are means over the last logged steps."""

    steps: int
    pairs: int
    loss: float
    reward_margin: float  # beta * ((log pi/ref)(chosen) - (log pi/ref)(rejected)), nats
    reward_accuracy: float
    curve: tuple[Mapping[str, float], ...] = field(default=())  # one entry per logged step
    digest: str = ""  # SHA-256 of the weights file of the adapter; empty where nothing was trained
    checkpoints: tuple[StageCheckpoint, ...] = ()  # saved inside the stage, in the order of their steps
