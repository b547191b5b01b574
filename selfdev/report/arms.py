"""The run beside its controls: what each found with the same number of question-evaluations. Read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfdev.estimates import final_rows
from selfdev.pair import in_finals
from selfdev.score import Score
from selfdev.stats import paired_gain
from selfdev.store import Store
from selfdev.types import Split

OWN = "generated"


@dataclass(frozen=True, slots=True)
class Arm:
    """What the run or one control did."""

    kind: str
    drawn: int
    valid: int
    evaluations: int  # question-evaluations on dev, finals included
    mean: float | None  # mean dev score of its programs before any selection
    best: str | None  # id of its best in the finals
    final: Score | None  # of the best, in the finals
    gain: tuple[float, float, float] | None  # over the seed there: difference and 95 % interval (paired)
    test: Score | None  # of the best on test, once opened


def arms(store: Store) -> list[Arm]:
    """The run's own programs, then the controls in the order they were begun."""
    kinds = dict.fromkeys(row.kind for row in store.candidates() if row.iteration > 0)
    return [arm(store, kind) for kind in sorted(kinds, key=lambda kind: (kind != OWN, kind))]


def arm(store: Store, kind: str) -> Arm:
    """One of them."""
    every = store.scored(kind=kind)
    scores = [c.opening_score for c in every if c.opening_score is not None and c.duplicate_of is None]
    order = in_finals(every)
    best = order[0].id if order else None
    counts, tested = store.final_counts(), store.counts(Split.TEST)
    return Arm(
        kind,
        len(every),
        sum(c.status.has_result for c in every),
        store.evaluations(kind),
        fmean(scores) if scores else None,
        best,
        counts.get(best) if best else None,
        _gain(store, kind, best) if best else None,
        tested.get(best) if best else None,
    )


def _gain(store: Store, kind: str, best: str) -> tuple[float, float, float] | None:
    seed, rows = final_rows(store, kind)
    if best not in rows:
        return None
    return paired_gain(rows[best], seed)


def arms_table(store: Store) -> RenderableType:
    """One line per arm, and a line per kind of control that was repeated."""
    found = arms(store)
    table = Table(
        title="the run and its controls, by question-evaluations on dev", title_justify="left", box=box.SIMPLE_HEAD,
        pad_edge=False,
    )  # fmt: skip
    for column in ("", "spent", "valid", "mean", "best", "gain, 95 % (paired)", "test"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for a in found:
        table.add_row(*_cells(a))
    table.caption = (
        "mean: dev score of all its programs; best: of the best one on the questions shared with the baselines; gain: "
        "over the seed there. What a control left unspent is less than one program's questions per iteration"
    )
    table.caption_justify = "left"
    return Group(table, *(Text(line) for line in _repeats(found)))


def _cells(a: Arm) -> list[str]:
    final = "-" if a.final is None else f"{a.final.correct / a.final.total:.3f}"
    gain = "-" if a.gain is None else f"{a.gain[0]:+.3f}, {a.gain[1]:+.3f} to {a.gain[2]:+.3f}"
    test = "sealed" if a.test is None else f"{a.test.correct / a.test.total:.3f}"
    mean = "-" if a.mean is None else f"{a.mean:.3f}"
    return ["selfdev" if a.kind == OWN else a.kind, str(a.evaluations), f"{a.valid}/{a.drawn}", mean, final, gain, test]


def _repeats(found: Sequence[Arm]) -> list[str]:
    """Run-to-run intervals of controls that were repeated (95 %, t)."""
    lines = []
    for name in dict.fromkeys(a.kind.split(" ")[0] for a in found):
        best = [a.final.correct / a.final.total for a in found if a.kind.split(" ")[0] == name and a.final is not None]
        if len(best) > 1:
            low, high = mean_interval(best)
            lines.append(
                f"{name}, {len(best)} repeats: best {fmean(best):.3f}, 95 % {low:.3f} to {high:.3f} run to run"
            )
    return lines


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """t interval of a mean over independent runs.

    Raises:
        ValueError: fewer than two values.
    """
    from scipy.stats import t

    if len(values) < 2:
        raise ValueError(f"{len(values)} values: need at least two runs for an interval between runs")
    reach = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach
