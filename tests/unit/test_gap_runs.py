"""What the benchmark of schedules claims, on hand-worked numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

SEEDS = 3


@pytest.fixture(scope="module")
def gap_runs() -> Iterator[ModuleType]:
    """The benchmark's module; its folder is no package."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import gap_runs as module  # type: ignore[import-not-found]

        yield module
    finally:
        sys.path.remove(folder)


def results(gap_runs: ModuleType, ends: dict[str, list[float]], gamma: float | None = 0.5) -> dict[str, Any]:
    """Runs of two epochs from U_s = 10 to the given ends; every other value is 1."""

    def point(solver: float | None) -> dict[str, Any]:
        return dict.fromkeys(gap_runs.KEPT, 1.0) | {"solver": solver}

    def made(schedule: str, end: float) -> dict[str, Any]:
        rows = {"none": [0, 0], "early": [4, 0], "uniform": [2, 2], "late": [0, 4]}[schedule]
        external = {"rows": rows, "gamma": None if gamma is None or schedule == "none" else {"value": gamma}}
        nothing = dict.fromkeys(("one_rate", "a_rate_each", "r2_one_rate", "equal_rates_p", "forecast", "trained"))
        return {"points": [point(10.0), *[point(9.0)] * 3, point(end)], "external": external, **nothing}

    return {schedule: [made(schedule, end) for end in ends[schedule]] for schedule in gap_runs.SCHEDULES}


def ends(early: list[float], late: list[float]) -> dict[str, list[float]]:
    return {"none": [6.0] * SEEDS, "early": early, "uniform": [6.0] * SEEDS, "late": late}


def test_no_difference_found_is_not_equivalence(gap_runs: ModuleType) -> None:
    # margin 0.1 x (10 - 6) = 0.4; differences -1, 0, 1: mean 0, standard error 1 / sqrt(3)
    told = gap_runs.primary(results(gap_runs, ends([5.0, 6.0, 7.0], [6.0] * SEEDS)))
    assert (told["value"], told["margin"]) == (0.0, pytest.approx(0.4))
    assert told["p_different"] == 1.0
    # t = 0.4 sqrt(3) with 2 degrees of freedom: 1/2 - t / (2 sqrt(2 + t^2))
    assert told["p_equivalent"] == pytest.approx(0.5 - 0.6928 / (2 * 2.48**0.5), abs=1e-4)
    assert told["verdict"] == "not resolved"
    assert told["least_margin"] == pytest.approx(2.92 / 3**0.5, abs=1e-3)  # t quantile 0.95 at 2 degrees


@pytest.mark.parametrize(
    ("early", "verdict"), [([6.01, 6.0, 5.99], "equivalent"), ([7.0, 7.1, 6.9], "different"),
                           ([6.1, 6.11, 6.09], "different and equivalent")],
)  # fmt: skip
def test_verdicts(early: list[float], verdict: str, gap_runs: ModuleType) -> None:
    assert gap_runs.primary(results(gap_runs, ends(early, [6.0] * SEEDS)))["verdict"] == verdict


def test_the_other_contrasts_share_one_level(gap_runs: ModuleType) -> None:
    told = gap_runs.differences(results(gap_runs, ends([7.0, 7.1, 6.9], [6.0] * SEEDS)))
    rows = [row for each in told.values() for row in each.values()]
    assert sum("p_holm" in row for row in rows) == len(rows) - 1 == 53
    assert "p" not in told["early - late"]["solver"]
    # p of a t of 1 / (0.1 / sqrt(3)) = 17.3 with 2 degrees of freedom: 0.0033, twice among 53
    row = told["early - none"]["solver"]
    assert row["p"] == pytest.approx(0.00332, abs=1e-5)
    assert row["p_holm"] == pytest.approx(53 * 0.00332, abs=1e-3)
    assert told["late - none"]["score"]["p_holm"] == 1.0


def test_values_that_are_missing_end_nothing(gap_runs: ModuleType) -> None:
    found = results(gap_runs, ends([7.0, 7.1, 6.9], [6.0] * SEEDS), gamma=None)
    found["late"][1]["points"][-1]["solver"] = None
    found["early"][0]["points"][2]["verifier"] = None
    told = {
        "ends": {name: gap_runs.ends(runs) for name, runs in found.items()},
        "primary": gap_runs.primary(found),
        "differences": gap_runs.differences(found),
        "dynamics": gap_runs.dynamics(found["none"]),
        "gamma": gap_runs.gammas(found),
    }
    assert told["gamma"]["early"]["before_and_after"]["value"] is None
    assert told["gamma"]["early"]["beside_none"] == {
        "values": [None, 0.0, 0.0],
        "value": None,
        "low": None,
        "high": None,
    }
    assert told["primary"]["verdict"] == "not resolved"
    assert "p_holm" not in told["differences"]["late - none"]["solver"]
    stream = StringIO()
    gap_runs.show(Console(file=stream, width=200), told)
    assert "does timing matter? solver at the end, early - late: -" in stream.getvalue()
    assert [gap_runs.run_record(run)["curve"]["kept"] for run in found["none"]] == [[1.0] * 5] * SEEDS
