"""Human-designed merges tuned on dev by an explicit number of question-evaluations.

Programs come in one fixed order, whatever the budget: greedy soup's averages, the defaults of all methods, then their
grids in turn. A larger budget goes on where a smaller one ended. Every program answers the baselines' block of dev
questions. The better part of that block chooses each method's point; the rest, which no choice has seen, estimates it.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, variance

from rich import box
from rich.table import Table

from selfdev.baselines.registry import METHODS, WRAPPERS, Method, defaults, described, points, programs
from selfdev.baselines.search import Soup, greedy_soup
from selfdev.errors import StageError, UsageError
from selfdev.evaluation import Run, lazy_worker, program_of, prompts_of, record
from selfdev.generate import stream_seed
from selfdev.stats import AnswerRow, paired_gain
from selfdev.store import CandidateRow, Store, program_row

KIND = "tuning"
SOUP = "greedy_soup"
CHOOSING = 0.7  # share of the block that chooses
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Point:
    """A method with values for its parameters: one program, or one for each seed of a random method."""

    method: str
    name: str  # for people
    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """A method at the best of the points that were tried."""

    method: str
    name: str
    tried: int  # points with a score
    chosen_on: float  # accuracy where it was chosen: the best of many, too good
    score: float  # accuracy on the questions that did not choose
    gain: tuple[float, float, float]  # over the seed there, with a 95 % interval


def listed_points(names: Sequence[str], sources: int, seed: int) -> list[Point]:
    """Defaults of these methods, then the rest of their grids in turn, each in a random order.

    Args:
        names: methods of the registry; those that need more sources are left out.
        sources: how many there are.
        seed: of the orders; a method's own does not depend on the other names.
    """
    queues = [_shuffled(row, sources, seed) for row in _rows(names, sources)]
    every = default_points(names, sources) + [
        queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)
    ]
    unique: dict[tuple[str, ...], Point] = {}
    for point in every:
        unique.setdefault(point.programs, point)
    return list(unique.values())


def default_points(names: Sequence[str], sources: int) -> list[Point]:
    """These methods at their defaults; a single source has none."""
    return [
        Point(row.name, f"{row.name} at its defaults", tuple(programs(row.name, defaults(row.name, sources))))
        for row in _rows(names, sources)
        if row.name != "single_source"
    ]


def least_programs(names: Sequence[str], sources: int, seed: int) -> int:
    """So many programs are all defaults and one more point: with fewer nothing is tuned."""
    first = len(default_points(names, sources))
    return sum(len(point.programs) for point in listed_points(names, sources, seed)[: first + 1])


def _rows(names: Sequence[str], sources: int) -> list[Method]:
    return [
        row
        for row in (*METHODS, *WRAPPERS)
        if row.name in set(names) and row.name != "zero" and row.sources[0] <= sources
    ]


def _shuffled(row: Method, sources: int, seed: int) -> list[Point]:
    usual = defaults(row.name, sources)  # written out in every program: the same values give the same text
    found = [
        Point(row.name, described(row.name, point), tuple(programs(row.name, usual | point)))
        for point in points(row.name, sources)
    ]
    random.Random(f"{seed} {row.name}").shuffle(found)
    return found


def tune(run: Run, names: Sequence[str], budget: int) -> None:
    """Spend question-evaluations on greedy soup, if named, and on points of methods until the next would not fit.

    What is recorded already counts. A program that fails, or whose merge was scored before, costs nothing.

    Raises:
        UsageError: the block is too small to choose on one part of it and to estimate on the other.
    """
    size, store = len(run.block_of(0)), run.store
    check_block(size)
    left = (budget - store.evaluations(KIND)) // size
    with run.view.phase(run.directory, 0, KIND, max(0, left)) as advance, lazy_worker(run) as worker:
        known = store.known_results(KIND)

        def evaluate(name: str, program: str) -> None:
            row = _row(run, name, program)
            store.add_candidates([row])
            if store.candidate(row.id).status is not None:
                return
            spent = store.evaluations(KIND)
            if spent + size > budget:
                raise _Spent
            outcome = worker().run(program_of(row), prompts_of(run.block_of(0)), known)
            record(run, row.id, outcome, known, run.block_of(0))
            advance(int(store.evaluations(KIND) > spent))

        def member_score(program: str) -> float | None:
            evaluate(SOUP, program)
            return _on(_rows_by_source(store).get(program), _split(store)[0])

        try:
            if SOUP in names:
                greedy_soup(len(run.config.models.sources), member_score)
            for point in run_points(run, names):
                for program in point.programs:
                    evaluate(point.name, program)
        except _Spent:
            return


def check_block(size: int) -> None:
    """
    Raises:
        UsageError: so many questions do not make two parts of at least two.
    """
    least = next(n for n in range(2, 100) if all(len(part) >= 2 for part in _parts(n)))
    if size < least:
        raise UsageError(
            f"a block has {size} dev questions; tuning needs at least {least}, two to choose a point by and two to "
            "estimate it on; set a larger task.dev_size"
        )


class _Spent(Exception):
    """The next program does not fit the budget."""


def run_points(run: Run, names: Sequence[str]) -> list[Point]:
    """The points of these methods in this run's order."""
    return listed_points(names, len(run.config.models.sources), stream_seed(run.config.seed, KIND, 0, 0))


def _row(run: Run, name: str, program: str) -> CandidateRow:
    """The row of a program; its number follows from its text, so that every selection of methods gives the same."""
    index = int(hashlib.sha256(program.encode()).hexdigest()[:7], 16)
    return program_row(KIND, name, 0, index, program, stream_seed(run.config.seed, KIND, 0, index))


# -- what came out ----------------------------------------------------------------------------------------------------


def tuned(run: Run, names: Sequence[str]) -> list[Tuned]:
    """Every method with its best point, best first by what the choice has not seen."""
    store, choosing = run.store, _split(run.store)[0]
    rows = _rows_by_source(store)
    best: dict[str, tuple[float, Point]] = {}
    tried: Counter[str] = Counter()
    for point in run_points(run, names):
        scores = [_on(rows.get(program), choosing) for program in point.programs]
        found = [score for score in scores if score is not None]
        if len(found) < len(scores):
            continue
        tried[point.method] += 1
        if point.method not in best or fmean(found) > best[point.method][0]:
            best[point.method] = fmean(found), point
    if SOUP in names and (soup := _recorded_soup(run, rows, choosing)) is not None:
        tried[SOUP], best[SOUP] = (
            len(soup.tried),
            (soup.score, Point(SOUP, f"{SOUP} MEMBERS={soup.members}", (soup.program,))),
        )
    seed = store.seed_verdicts(0)
    made = [_tuned(name, tried[name], chosen, point, rows, seed, store) for name, (chosen, point) in best.items()]
    return sorted(made, key=lambda row: (-row.score, row.method))


def _tuned(
    name: str, tried: int, chosen: float, point: Point, rows: Mapping[str, AnswerRow], seed: AnswerRow, store: Store
) -> Tuned:
    places = _split(store)[1]
    answered = [[bool(rows[program][i]) for i in places] for program in point.programs]
    own = [bool(seed[i]) for i in places]
    return Tuned(name, point.name, tried, chosen, fmean(map(fmean, answered)), mean_gain(answered, own))


def mean_gain(runs: Sequence[Sequence[bool]], seed: Sequence[bool]) -> tuple[float, float, float]:
    """Mean accuracy of some runs minus the seed's on the same questions, with a 95 % interval over the questions.

    One run: the paired score interval. Several (a random method's seeds): normal, from the questions' mean differences.
    """
    if len(runs) == 1:
        return paired_gain(runs[0], seed)
    differences = [fmean(answers) - own for *answers, own in zip(*runs, seed, strict=True)]
    reach = _Z * sqrt(variance(differences) / len(differences))
    return fmean(differences), fmean(differences) - reach, fmean(differences) + reach


def _recorded_soup(run: Run, rows: Mapping[str, AnswerRow], choosing: Sequence[int]) -> Soup | None:
    """The soup, if its programs have run; None before that."""
    ran = {row.source for row in run.store.candidates(0, KIND) if row.status is not None}

    def score(program: str) -> float | None:
        if program not in ran:
            raise _Spent
        return _on(rows.get(program), choosing)

    try:
        return greedy_soup(len(run.config.models.sources), score)
    except (_Spent, StageError):
        return None


def _split(store: Store) -> tuple[range, range]:
    """Places in the block that choose, and those that estimate; a block is in random order already."""
    return _parts(len(store.seed_verdicts(0)))


def _parts(size: int) -> tuple[range, range]:
    return range(round(CHOOSING * size)), range(round(CHOOSING * size), size)


def _rows_by_source(store: Store) -> dict[str, AnswerRow]:
    """Program text -> verdicts, of programs with a score of their own or of a twin's."""
    verdicts = store.verdicts(0, KIND, 0)
    rows = [(row.source, row.duplicate_of or row.id) for row in store.candidates(0, KIND) if row.refused is None]
    return {str(source): verdicts[original] for source, original in rows if original in verdicts}


def _on(row: AnswerRow | None, places: Sequence[int]) -> float | None:
    return None if row is None else fmean(bool(row[i]) for i in places)


def tuned_table(run: Run, names: Sequence[str]) -> Table:
    """Method, best point, how it scored where it was chosen and where it was not, and its gain there."""
    choosing, estimating = _split(run.store)
    table = Table(
        title=f"human-designed merges tuned with {run.store.evaluations(KIND)} question-evaluations: chosen on "
        f"{len(choosing)} dev questions, score and gain on {len(estimating)} others",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("method", no_wrap=True)
    table.add_column("best point", overflow="fold")
    for column in ("points", "chosen", "score", "gain, 95 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in tuned(run, names):
        gain, low, high = row.gain
        table.add_row(
            row.method, row.name.removeprefix(row.method).strip(), str(row.tried), f"{row.chosen_on:.3f}",
            f"{row.score:.3f}", f"{gain:+.3f}\n{low:+.3f}..{high:+.3f}",
        )  # fmt: skip
    table.caption = (
        "chosen: the best of its points, too good; gain: over the seed, paired. Of a random method: mean of its seeds"
    )
    table.caption_justify = "left"
    return table
