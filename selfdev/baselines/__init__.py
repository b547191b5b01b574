"""Human-designed merges: one `merge_models` file each, run through the same executor as candidates.

    registry   the table of methods: papers, parameters, defaults, tuning grids; `method_source` makes a program of one
    compose    LiNeS behind any program
    search     what looks at dev scores: greedy soup, the best point of a grid
    table      the rows that every run is compared with

A program is a method's file with the right-hand side of its module constants replaced, so that what runs is something
anyone can read and run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfdev.baselines.compose import with_lines
from selfdev.baselines.registry import (
    METHODS,
    SEEDS,
    WRAPPERS,
    Method,
    Parameter,
    Value,
    constants,
    defaults,
    fill,
    grid,
    method,
    method_source,
    points,
    programs,
    read,
    seeds,
)
from selfdev.baselines.search import greedy_soup, grid_search

PAPER_GRID = (0.2, 0.4, 0.6)  # arXiv 2410.15639: coefficient combinations of 20, 40 and 60 %
MAX_GRID = 243  # points; more sources than five get one common coefficient instead of the full grid

__all__ = [
    "METHODS",
    "WRAPPERS",
    "SEEDS",
    "Method",
    "Parameter",
    "Value",
    "method",
    "method_source",
    "defaults",
    "grid",
    "points",
    "seeds",
    "programs",
    "with_lines",
    "greedy_soup",
    "grid_search",
    "Baseline",
    "PAPER_GRID",
    "MAX_GRID",
    "published_order",
    "read_rule",
    "table",
]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A human-designed merge, ready to run."""

    kind: str  # "seed", "source", "mean", "example", "task_arithmetic"
    name: str  # for people
    source: str  # Python text that defines merge_models


def read_rule(file: str, **constants: Any) -> str:
    """The source text of a rule with module constants replaced.

    Raises:
        ValueError: the file has no such constant at module level.
    """
    return fill(read(file), constants)


def table(source_names: Sequence[str], example: str | None = None) -> list[Baseline]:
    """What every run is compared with: seed, each source alone, uniform average, Task Arithmetic over the paper's grid,
    and the prompt's worked example, so that a copy of it does not count as a discovery.

    The grid is {0.2, 0.4, 0.6} per source (27 points for three sources). Where that exceeds `MAX_GRID` points, all
    sources share one coefficient from 0.1 to 1.0.
    """
    count = len(source_names)
    rows = [Baseline("seed", "seed model", read_rule("zero"))]
    rows += [Baseline("source", name, read_rule("single_source", SOURCE=i)) for i, name in enumerate(source_names)]
    rows.append(Baseline("mean", "uniform average", read_rule("uniform_average")))
    if example is not None:
        rows.append(Baseline("example", "the prompt's worked example", example))
    for weights in _grid(count):
        label = "Task Arithmetic " + " ".join(f"{w:g}" for w in weights)
        rows.append(Baseline("task_arithmetic", label, read_rule("task_arithmetic", WEIGHTS=weights)))
    return rows


def published_order(kind: str, source: str) -> tuple[int, float]:
    """Sort key of a baseline that no score decides: the uniform average, Task Arithmetic from its published
    coefficients outwards, the worked example, all else."""
    order = ("mean", "task_arithmetic", "example")
    if kind not in order:
        return len(order), 0.0
    weights = constants(source)["WEIGHTS"] if kind == "task_arithmetic" else ()
    published = defaults("task_arithmetic", len(weights))["WEIGHTS"]
    assert isinstance(published, tuple)
    return order.index(kind), round(sum(abs(w - p) for w, p in zip(weights, published, strict=True)), 9)


def _grid(count: int) -> list[tuple[float, ...]]:
    if len(PAPER_GRID) ** count <= MAX_GRID:
        return list(itertools.product(PAPER_GRID, repeat=count))
    return [(round(0.1 * step, 1),) * count for step in range(1, 11)]
