"""Which candidates get more questions: a race, as a pure function of the answers recorded so far.

The questions of an iteration stand in one random order, drawn before any candidate exists. The first part is for the
race, the last `held_out` ones are for estimates. The seed has answered all. Candidates proceed together, one block of
questions per round; between rounds, three rules may end a candidate's race:

    futile  the evidence against "at least as good as the seed" has reached 1 / alpha
    beaten  the evidence against "among the `keep` best" has reached 1 / alpha
    budget  the question-evaluations left do not reach for all: the worst by race score go

so what one candidate no longer costs is there for the others. Both kinds of evidence are e-processes
(`stats.log_e_better`): looking after every block costs no validity, and since nobody sees a question before all
decisions of the round before are made, dropping some candidates does not disturb the evidence about others. At least
`keep` candidates stay: of those that a rule would end, the best by race score remain.

Estimates. A race score is biased: it stopped where it looked bad, or was picked because it looked good. It serves to
choose and to order, nothing else. The `keep` best of the survivors (finalists) then answer the held-out questions, on
which no decision depends; their accuracy there, and the paired difference from the seed with its interval, is what is
recorded. Who was dropped has no estimate, only the reason and the count.

The state is computed anew from the answers at every call, round by round, so a run that was killed continues with the
decisions it would have made. That needs constant rules: a block size that was measured has to be recorded with the run.
Duplicates do not enter; a candidate that is refused while it races is named in `withdrawn`.

Left out: running programs, grading, the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from math import ceil, log, sqrt
from random import Random

import numpy as np
from numpy.typing import NDArray

from selfdev.stats import AnswerRow, discordant, paired_interval

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Reason(StrEnum):
    """Why a candidate's race ended early."""

    FUTILE = "futile"  # worse than the seed
    BEATEN = "beaten"  # at least `keep` candidates are better
    BUDGET = "budget"  # the budget does not reach for it; nothing is said about its worth
    REFUSED = "refused"


class Stage(StrEnum):
    """What the next blocks are for."""

    RACE = "race"
    HELD_OUT = "held out"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class RaceRules:
    """The settings of one race; they do not change while it runs."""

    block: int  # questions per candidate and round
    held_out: int  # questions at the end of the order that only estimates use
    keep: int  # candidates that stay at least, and that are estimated at most
    budget: int | None = None  # question-evaluations of all candidates, held-out ones included; None: no limit
    # Chance of ever dropping a candidate that is as good as the seed, or one of the `keep` best. Dropping is no claim
    # in a report, and who is truly better runs a far smaller risk, so it need not be as strict as a claim.
    alpha: float = 0.1

    def __post_init__(self) -> None:
        if self.block < 1 or self.held_out < 0 or self.keep < 1 or not 0 < self.alpha < 1:
            raise ValueError(f"{self}: need block >= 1, held_out >= 0, keep >= 1 and 0 < alpha < 1")


@dataclass(frozen=True, slots=True)
class Block:
    """Questions to ask one candidate, as positions in the list of questions, in order."""

    candidate: str
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """One candidate in the race. Counts are over its race questions; they order candidates and estimate nothing."""

    candidate: str
    asked: int
    correct: int
    wins: int  # against the seed
    losses: int
    log_better: float  # log e-value for "better than the seed"; for several candidates together see `stats.e_bh`
    log_worse: float
    dropped: Reason | None = None


@dataclass(frozen=True, slots=True)
class RaceState:
    """Where a race stands."""

    stage: Stage
    blocks: tuple[Block, ...]  # to ask next, in any order; empty only when the race is over
    standings: tuple[Standing, ...]  # survivors by race score, then the dropped: who lasted longer first
    finalists: tuple[str, ...]  # who answers the held-out questions, best first; empty while the race is on
    spent: int  # question-evaluations used so far


@dataclass(frozen=True, slots=True)
class Estimate:
    """A finalist against the seed on held-out questions: unbiased, since no decision depended on them."""

    candidate: str
    correct: int
    wins: int
    losses: int
    questions: int
    gain: float  # accuracy minus that of the seed
    low: float  # 95 % score interval of the gain
    high: float


def question_order(questions: int, seed: int) -> tuple[int, ...]:
    """All positions 0 .. questions - 1 in the random order of a race; the same for the same seed."""
    order = list(range(questions))
    Random(seed).shuffle(order)
    return tuple(order)


def choose_block(
    swap_seconds: float, question_seconds: float, typical: int = 40, lowest: int = 8, highest: int = 128
) -> int:
    """Questions per block that cost least time, for a measured cost of changing the merged model.

    With block b, a candidate that is decided after about `typical` questions costs typical / b swaps and b / 2
    questions beyond its decision, so b = sqrt(2 typical swap / question) (Harris' lot size, 1913).

    Args:
        swap_seconds: to load one merged model and empty the caches.
        question_seconds: per question, measured at the batch size in use.
        typical: questions after which a hopeless candidate is usually known.
        lowest: at least; give the engine's batch size where smaller batches take as long.
        highest: at most; also at most the questions of the race.

    Raises:
        ValueError: a time that is negative or not positive, or bounds that do not fit.
    """
    if swap_seconds < 0 or question_seconds <= 0 or not 1 <= lowest <= highest or typical < 1:
        raise ValueError(
            f"swap {swap_seconds} s, question {question_seconds} s, typical {typical}, bounds {lowest}..{highest}: "
            "need swap >= 0, question > 0, typical >= 1 and 1 <= lowest <= highest"
        )
    return min(highest, max(lowest, ceil(sqrt(2 * typical * swap_seconds / question_seconds))))


def least_budget(candidates: int, questions: int, rules: RaceRules) -> int:
    """Question-evaluations without which a race of so many cannot end: one block for each, all for `keep`."""
    kept = min(candidates, rules.keep)
    first = min(rules.block, questions - rules.held_out)
    return candidates * first + kept * (questions - first)


def race(
    order: Sequence[int],
    seed: Sequence[bool],
    answers: Mapping[str, AnswerRow],
    rules: RaceRules,
    withdrawn: Mapping[str, int] | None = None,
) -> RaceState:
    """The state of a race after the answers recorded so far. Which candidate stands where in `answers` plays no role.

    Args:
        order: every position of the list of questions once; from `question_order`.
        seed: the seed's verdict on every question, by position.
        answers: candidate -> its verdicts by position, None where not asked yet. All candidates of the race, from its
            beginning to its end; neither duplicates nor programs without a result.
        rules: constant over the race.
        withdrawn: candidate -> how many race questions it had answered when it was refused.

    Raises:
        ValueError: an order, rows or a budget that do not fit.
    """
    _check(order, seed, answers, rules)
    replay = _Replay.enter(order, seed, answers, rules, withdrawn or {})
    while replay.asked < replay.race_questions and replay.alive.any():
        missing = replay.open_round()
        if missing:
            return replay.state(Stage.RACE, missing)
        replay.close_round()
    replay.withdraw(replay.race_questions + 1)
    finalists = replay.finalists()
    missing = replay.missing(finalists, replay.race_questions, len(order))
    return replay.state(Stage.HELD_OUT if missing else Stage.OVER, missing, finalists)


def estimate(order: Sequence[int], seed: Sequence[bool], row: AnswerRow, rules: RaceRules, candidate: str) -> Estimate:
    """A finalist's gain over the seed on the held-out questions.

    Raises:
        ValueError: no question is held out, or one is not answered.
    """
    held_out = order[len(order) - rules.held_out :]
    own = [row[i] for i in held_out]
    if not own or None in own:
        raise ValueError(f"candidate {candidate}: {own.count(None)} of {len(own)} held-out questions are not answered")
    wins, losses, questions = discordant(own, [seed[i] for i in held_out])
    low, high = paired_interval(wins, losses, questions)
    return Estimate(candidate, sum(map(bool, own)), wins, losses, questions, (wins - losses) / questions, low, high)


def log_e_values(wins: NDArray[np.int64], losses: NDArray[np.int64]) -> Floats:
    """`stats.log_e_better` of whole arrays, from a table."""
    largest = int((wins + losses).max(initial=0))
    found: Floats = _table(1 << largest.bit_length())[wins, wins + losses]
    return found


def _check(order: Sequence[int], seed: Sequence[bool], answers: Mapping[str, AnswerRow], rules: RaceRules) -> None:
    n = len(seed)
    if sorted(order) != list(range(n)) or any(len(row) != n for row in answers.values()):
        raise ValueError(f"need every position 0..{n - 1} once in the order, and {n} verdicts per candidate")
    if rules.held_out >= n:
        raise ValueError(f"{rules.held_out} of {n} questions held out: need at least one for the race")
    least = least_budget(len(answers), n, rules)
    if rules.budget is not None and rules.budget < least:
        raise ValueError(
            f"a budget of {rules.budget} question-evaluations: need at least {least}, one block for each of "
            f"{len(answers)} candidates and all {n} questions for {min(rules.keep, len(answers))}"
        )


@dataclass(slots=True)
class _Replay:
    """The candidates during one replay. Rows: candidates by id; columns: questions in the order of the race."""

    ids: list[str]
    order: Sequence[int]
    rules: RaceRules
    withdrawn: Mapping[str, int]
    seed: Flags  # (questions,)
    right: Flags  # (candidates, questions)
    known: Flags  # (candidates, questions): answered
    alive: Flags  # (candidates,)
    counted: NDArray[np.int64]  # (candidates,) race questions counted
    beats: NDArray[np.float32]  # (candidates, candidates) questions that the row answers and the column does not
    asked: int = 0
    spent: int = 0
    dropped: dict[int, Reason] = field(default_factory=dict)

    @classmethod
    def enter(
        cls,
        order: Sequence[int],
        seed: Sequence[bool],
        answers: Mapping[str, AnswerRow],
        rules: RaceRules,
        withdrawn: Mapping[str, int],
    ) -> _Replay:
        ids = sorted(answers)
        rows = [np.array(answers[i], dtype=np.float32) for i in ids]  # None becomes not-a-number
        table = np.array(rows).reshape(len(ids), len(seed))[:, list(order)]
        return cls(
            ids, order, rules, withdrawn, np.array(seed, dtype=bool)[list(order)], table == 1, ~np.isnan(table),
            np.ones(len(ids), dtype=bool), np.zeros(len(ids), dtype=np.int64),
            np.zeros((len(ids), len(ids)), dtype=np.float32),
        )  # fmt: skip

    @property
    def race_questions(self) -> int:
        return len(self.order) - self.rules.held_out

    @property
    def next_end(self) -> int:
        return min(self.asked + self.rules.block, self.race_questions)

    # -- a round ------------------------------------------------------------------------------------------------------

    def open_round(self) -> list[Block]:
        """Drop what the budget does not reach for; then the blocks of the round that are not answered yet."""
        self.withdraw(self.next_end)
        self._fit_budget()
        return self.missing(self._racing(), self.asked, self.next_end)

    def close_round(self) -> None:
        """Count the answers of the round, then drop by evidence."""
        new = slice(self.asked, self.next_end)
        racing = self.alive[:, None]
        won = (self.right[:, new] & racing).astype(np.float32)
        lost = (~self.right[:, new] & racing).astype(np.float32)
        self.beats += won @ lost.T
        self.spent += int(self.alive.sum()) * (self.next_end - self.asked)
        self.asked = self.next_end
        self.counted[self.alive] = self.asked
        limit = -log(self.rules.alpha)
        wins, losses = self.against_seed()
        self._drop_hopeless(log_e_values(losses, wins) >= limit, Reason.FUTILE)
        self._drop_hopeless(self._log_beaten() >= limit, Reason.BEATEN)

    def withdraw(self, before: int) -> None:
        """Drop who was refused with fewer race questions answered than `before`."""
        refused = [i for i, name in enumerate(self.ids) if self.withdrawn.get(name, before) < before]
        self._drop(refused, Reason.REFUSED)

    def _fit_budget(self) -> None:
        """Keep as many as can answer the round while `keep` of them can still answer everything after it."""
        if self.rules.budget is None:
            return
        kept = min(int(self.alive.sum()), self.rules.keep)
        size = self.next_end - self.asked
        free = self.rules.budget - self.spent - kept * (len(self.order) - self.next_end)
        self._drop(self._ranked(self._racing())[max(kept, free // size) :], Reason.BUDGET)

    def _drop_hopeless(self, hopeless: Flags, reason: Reason) -> None:
        """Drop, but never so many that fewer than `keep` stay."""
        racing = self._racing()
        doomed = [i for i in self._ranked(racing) if hopeless[i]]
        stay = max(0, self.rules.keep - (len(racing) - len(doomed)))
        self._drop(doomed[stay:], reason)

    def _drop(self, members: Sequence[int], reason: Reason) -> None:
        for i in members:
            if self.alive[i]:
                self.alive[i] = False
                self.dropped[i] = reason

    # -- evidence -----------------------------------------------------------------------------------------------------

    def against_seed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(wins, losses) of every candidate over the race questions counted so far."""
        counted = self._counted_columns()
        wins = (self.right & ~self.seed & counted).sum(axis=1)
        losses = (~self.right & self.seed & counted).sum(axis=1)
        return wins, losses

    def _log_beaten(self) -> Floats:
        """Log e-value against "one of the `keep` best", for every candidate.

        If it is one of them, at most keep - 1 others are better, so "not better than it" is true of at least K - keep
        of the others. The mean of their e-values is an e-value, and no smaller than the mean of the K - keep smallest
        e-values for "better than it": a test of a partial conjunction (Benjamini and Heller 2008; averages of e-values:
        Vovk and Wang 2021, Annals of Statistics 49:1736). Evidence against those that have left stays as it was.
        """
        count, keep = len(self.ids), self.rules.keep
        if count <= keep:
            return np.full(count, -np.inf)
        wins = self.beats.astype(np.int64)
        evidence = log_e_values(wins, wins.T)  # row better than column
        np.fill_diagonal(evidence, np.inf)  # sorted to the end, and not among the smallest
        smallest = np.sort(evidence, axis=0)[: count - keep]
        mean: Floats = np.logaddexp.reduce(smallest, axis=0) - log(count - keep)
        return mean

    # -- results ------------------------------------------------------------------------------------------------------

    def missing(self, members: Sequence[int], first: int, last: int) -> list[Block]:
        """What these candidates have not answered of the columns first .. last - 1."""
        blocks = []
        for i in members:
            columns = [c for c in range(first, last) if not self.known[i, c]]
            if columns:
                blocks.append(Block(self.ids[i], tuple(self.order[c] for c in columns)))
        return blocks

    def finalists(self) -> list[int]:
        """The `keep` best survivors by race score."""
        return self._ranked(self._racing())[: self.rules.keep]

    def _racing(self) -> list[int]:
        return [int(i) for i in np.flatnonzero(self.alive)]

    def _ranked(self, members: Sequence[int]) -> list[int]:
        """Who lasted longer first, then more right answers; equals by id."""
        correct = (self.right & self._counted_columns()).sum(axis=1)
        return sorted(members, key=lambda i: (not self.alive[i], -self.counted[i], -correct[i], self.ids[i]))

    def _counted_columns(self) -> Flags:
        """(candidates, questions): which answers count for the race so far."""
        columns: Flags = np.arange(len(self.order)) < self.counted[:, None]
        return columns

    def state(self, stage: Stage, blocks: Sequence[Block], finalists: Sequence[int] = ()) -> RaceState:
        """What the outside sees."""
        wins, losses = self.against_seed()
        better, worse = log_e_values(wins, losses), log_e_values(losses, wins)
        standings = tuple(
            Standing(
                self.ids[i], int(self.counted[i]), int(self.right[i, : self.counted[i]].sum()), int(wins[i]),
                int(losses[i]), float(better[i]), float(worse[i]), self.dropped.get(i),
            )
            for i in self._ranked(range(len(self.ids)))
        )  # fmt: skip
        running, last = (finalists, len(self.order)) if finalists else (self._racing(), self.next_end)
        spent = int(self.counted.sum() + self.known[list(running), self.asked : last].sum())
        return RaceState(stage, tuple(blocks), standings, tuple(self.ids[i] for i in finalists), spent)


@lru_cache(maxsize=16)
def _table(largest: int) -> Floats:
    """log E by (wins, wins + losses), up to `largest` discordant questions, by the recurrence of `log_e_better`."""
    total = np.arange(largest + 1)
    table = np.full((largest + 1, largest + 1), np.nan)
    table[0] = -np.log(total + 1)
    for w in range(1, largest + 1):
        table[w, w:] = np.logaddexp(0.0, log(w) + table[w - 1, w:]) - np.log(total[w:] - w + 1)
    return table
