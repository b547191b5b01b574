"""The numbers of a discovered program, tuned: by how much, and is that more than tuning Task Arithmetic gives?

What is tuned are the program's constants of role `value` (`selfdev.program_edits` has the rule). Each moves between 0
and twice itself, at least to +-1.2 (a constant 0 between -1 and 1), is rounded to four digits and tested as it is
written. A Tree-structured Parzen Estimator (optuna; Bergstra et al. 2011) proposes settings; its first trial is the
program as it is. A setting answers the deciding questions block by block and is dropped once the evidence that it is
worse than the program as it is reaches 1 / alpha (`stats.log_e_better`, which may be looked at after every block); the
optimiser is told the gain over the program as it is, on the questions that were asked. The best setting that answered
all is the polished program.

The control tunes Task Arithmetic's coefficients, one per source, by the same rules with the same question-evaluations.
The gain of the best setting where it was chosen is too good, so the program, the polished one and the tuned Task
Arithmetic meet on held-out questions that no decision saw: exact McNemar tests, adjusted for both comparisons (Holm).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING

from selfdev.architectures import read_shape
from selfdev.baselines.registry import defaults, method_source
from selfdev.errors import StageError, UsageError
from selfdev.evaluation import Run
from selfdev.generate import stream_seed
from selfdev.power import Verdict, verdict
from selfdev.program_edits import Constant, Number, constants, set_constants
from selfdev.stats import holm, log_e_better, mcnemar
from selfdev.store import RACE_BLOCK, CandidateRow
from selfdev.study import CONTROL, FEWEST, HELD_OUT, Ask, Study, asking, begin, copy_of
from selfdev.types import ExecutionStatus

if TYPE_CHECKING:
    import optuna

WHAT = "polish"
MOST_QUESTIONS = 1000  # that decide
WHOLE_TRIALS = 12  # settings that answer everything, for which a budget reaches at least
MOST_TRIALS = 8  # times that: an end where most settings fail or repeat a merge and cost nothing
DIGITS = 4
REACH = 1.2  # a constant may at least become so large; also the largest coefficient of Task Arithmetic
FAILED = -1.0  # the gain of a setting without a merge, for the optimiser
DEFAULT_BLOCK = 20

Space = Mapping[str, tuple[float, float]]  # name -> bounds


@dataclass(frozen=True, slots=True)
class Arm:
    """What an optimiser tunes."""

    study: Study
    start: str  # the program it begins with
    at: Mapping[str, float]  # its numbers
    space: Space
    make: Callable[[Mapping[str, float]], str]


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best setting of an arm."""

    row: CandidateRow
    trials: int
    dropped: int  # by evidence that they are worse
    failed: int
    spent: int  # question-evaluations
    gain: float  # over the start where it was chosen: too good


@dataclass(frozen=True, slots=True)
class Comparison:
    """The polished program against another one, on held-out questions."""

    wins: int
    losses: int
    questions: int
    p_value: float  # adjusted for both comparisons (Holm)

    @property
    def difference(self) -> float:
        """Accuracy of the polished program minus that of the other."""
        return (self.wins - self.losses) / self.questions if self.questions else 0.0

    @property
    def verdict(self) -> Verdict:
        """What may be said."""
        return verdict(self.wins, self.losses, self.p_value)


@dataclass(frozen=True, slots=True)
class Polished:
    """What a polish found."""

    study: Study
    constants: tuple[Constant, ...]
    original: CandidateRow
    program: Tuned
    control: Tuned
    against_original: Comparison
    against_control: Comparison


def tunable(source: str) -> list[Constant]:
    """The constants that are tuned.

    Raises:
        UsageError: there are none.
    """
    found = [c for c in constants(source) if c.role == "value"]
    if not found:
        raise UsageError("the program has no constant to tune; indices, shapes, dimensions, counts and guards are none")
    return found


def bounds(value: Number) -> tuple[float, float]:
    """Where a constant is looked for."""
    if value == 0:
        return -1.0, 1.0
    far = max(REACH, 2 * abs(value))
    return (0.0, far) if value > 0 else (-far, 0.0)


def plan(budget: int) -> int:
    """Questions of a polish, held-out ones included.

    Raises:
        UsageError: the budget does not reach.
    """
    deciding = min(MOST_QUESTIONS, budget // WHOLE_TRIALS)
    if deciding < FEWEST:
        raise UsageError(f"--budget {budget} given; at least {FEWEST * WHOLE_TRIALS} question-evaluations are needed")
    return round(deciding / (1 - HELD_OUT))


def polish(run: Run, of: CandidateRow, budget: int, allow_seen: bool = False) -> Polished:
    """Begin or continue the polish of a program.

    Args:
        run: a run that has ended.
        of: one of its programs, with a merge.
        budget: question-evaluations of each of the two arms at most.
        allow_seen: see `study.begin`.

    Raises:
        UsageError, RunError: nothing to tune, too small a budget, begun with another one, or optuna is missing.
        StageError: the program does not give its merge any more.
    """
    assert of.source is not None
    listed = tunable(of.source)
    _sampler(0)
    study = begin(run, WHAT, of, plan(budget), {"budget": budget}, allow_seen=allow_seen)
    control = replace(study, kind=study.kind + CONTROL)
    original, program = _arm(run, _program_arm(study, of.source, listed), budget)
    _, tuned = _arm(run, _control_arm(control, len(run.config.models.sources)), budget)
    pairs = [study.against(program.row, other, study.held_out) for other in (original, tuned.row)]
    adjusted = holm([mcnemar(wins, losses) for wins, losses, _ in pairs])
    first, second = (Comparison(*counts, p) for counts, p in zip(pairs, adjusted, strict=True))
    return Polished(study, tuple(listed), original, program, tuned, first, second)


def _program_arm(study: Study, source: str, listed: list[Constant]) -> Arm:
    names = {f"constant {number}": c for number, c in enumerate(listed, start=1)}
    return Arm(
        study, source, {name: float(c.value) for name, c in names.items()},
        {name: bounds(c.value) for name, c in names.items()},
        lambda values: set_constants(source, {c.node: values[name] for name, c in names.items()}),
    )  # fmt: skip


def _control_arm(study: Study, sources: int) -> Arm:
    weights = defaults("task_arithmetic", sources)["WEIGHTS"]
    assert isinstance(weights, tuple)
    names = [f"weight {number}" for number in range(1, sources + 1)]

    def make(values: Mapping[str, float]) -> str:
        return method_source("task_arithmetic", WEIGHTS=tuple(values[name] for name in names))

    at = dict(zip(names, map(float, weights), strict=True))
    return Arm(study, make(at), at, dict.fromkeys(names, (0.0, REACH)), make)


# -- one arm ----------------------------------------------------------------------------------------------------------


def _arm(run: Run, arm: Arm, budget: int) -> tuple[CandidateRow, Tuned]:
    """The arm's start and its best setting, with their answers to the held-out questions too."""
    study = arm.study
    with asking(study) as ask:
        start = copy_of(study, ask, study.decide) if arm.start == study.of.source else _first(arm, ask)
        best = _tune(run, arm, ask, start, budget)
        ask(start, study.held_out)
        ask(best.row, study.held_out)
    return start, best


def _first(arm: Arm, ask: Ask) -> CandidateRow:
    start = ask(arm.study.add(0, _described(arm.at), arm.start), arm.study.decide)
    if start.status is not ExecutionStatus.OK:
        raise StageError(f"Task Arithmetic does not run: {start.status}, {start.error}")
    return start


def _tune(run: Run, arm: Arm, ask: Ask, start: CandidateRow, budget: int) -> Tuned:
    study, questions = arm.study, arm.study.decide
    whole = len(questions)
    optimiser = _begin(_sampler(stream_seed(run.config.seed, study.kind, 0, 0) % 2**32), arm)
    best, gained, spent = start, 0.0, whole
    trials = dropped = failed = 0
    block = _block(run, whole)
    with run.view.phase(run.directory, 0, study.kind, budget) as advance:
        advance(whole)
        while spent + whole <= budget and trials < MOST_TRIALS * budget // whole:
            trial = optimiser.ask()
            values = {name: _rounded(trial.suggest_float(name, *limits)) for name, limits in arm.space.items()}
            trials += 1
            row = study.add(trials, _described(values), arm.make(values))
            row, gain, ended = _race(run, study, ask, row, start, block)
            optimiser.tell(trial, FAILED if gain is None else gain)
            failed += gain is None
            dropped += gain is not None and not ended
            cost = 0 if row.duplicate_of else sum(v is not None for v in study.verdicts(row, questions))
            spent += cost
            advance(cost)
            if gain is not None and ended and gain > gained:
                best, gained = row, gain
    return Tuned(best, trials, dropped, failed, spent, gained)


def _block(run: Run, whole: int) -> int:
    """Questions between two looks; all of them where every further look would merge again."""
    recorded = run.store.get_meta(RACE_BLOCK)
    if recorded is not None:  # measured or chosen with the cost of a merge in mind
        return int(recorded)
    models = run.config.models
    shape = read_shape(models.seed, models.dtype, models.scope if isinstance(models.scope, str) else list(models.scope))
    return DEFAULT_BLOCK if shape.merged * shape.bytes <= run.config.race.cache_bytes else whole


def _race(
    run: Run, study: Study, ask: Ask, row: CandidateRow, start: CandidateRow, block: int
) -> tuple[CandidateRow, float | None, bool]:
    """(the row, its gain over the start on what it answered, it answered everything); no gain: it has no merge.

    One with too many answers cut by the token limit counts as without one, where the start has not.
    """
    questions = study.decide
    limit = -log(run.config.race.alpha)
    wins = losses = asked = 0
    for end in [*range(block, len(questions), block), len(questions)]:
        row = ask(row, questions[:end])
        if row.status is not ExecutionStatus.OK:
            return row, None, False
        if study.refused(row, questions[:end]) and not study.refused(start, questions[:end]):
            return row, None, False
        wins, losses, asked = study.against(row, start, questions[:end])
        if log_e_better(losses, wins) >= limit:
            return row, (wins - losses) / asked, False
    return row, (wins - losses) / asked, True


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    try:
        import optuna
    except ImportError:
        raise UsageError("selfdev polish needs optuna: pip install 'selfdev[controls]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=WHOLE_TRIALS // 2)


def _begin(sampler: optuna.samplers.BaseSampler, arm: Arm) -> optuna.Study:
    import optuna

    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {name: optuna.distributions.FloatDistribution(*limits) for name, limits in arm.space.items()}
    study.add_trial(optuna.trial.create_trial(params=dict(arm.at), distributions=dict(space), value=0.0))
    return study


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _described(values: Mapping[str, float]) -> str:
    return " ".join(f"{value:g}" for value in values.values())
