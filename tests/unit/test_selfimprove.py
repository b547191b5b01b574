"""Selection, measurement and external answers on hand-worked numbers."""

from __future__ import annotations

from math import exp, isnan, nan, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from selfdev.cli.gap import read_curves
from selfdev.dynamics import cross
from selfdev.selfimprove.measure import (
    Answered,
    Point,
    curve_errors,
    error_correlation,
    level_errors,
    question_values,
    summary,
    table,
    to_csv,
    to_curve,
)
from selfdev.selfimprove.selection import Sampled, select
from selfdev.selfimprove.summary import end_forecast, points_table
from selfdev.verifiers.base import Response


def sampled(
    nll: float, tokens: int, quality: float = 1.0, truncated: bool = False, answer: str | None = "1"
) -> Sampled:
    return Sampled(Response("x", tokens, nll, answer), truncated, quality)


# -- selection --------------------------------------------------------------------------------------------------------


def test_the_threshold_comes_first_then_the_lowest_nll_per_token() -> None:
    samples = [sampled(4.0, 8, 0.6), sampled(1.0, 1, 0.9), sampled(1.0, 8, 0.4), sampled(0.9, 1, 0.5)]
    assert select(samples, 0.0) == 2  # 0.125 nats per token, though not the lowest total NLL
    assert select(samples, 0.5) == 0  # 0.5 against 1.0 and 0.9
    assert select(samples, 0.9) == 1
    assert select(samples, 0.95) is None


def test_cut_samples_are_never_kept_and_the_first_of_equals_is() -> None:
    assert select([sampled(0.1, 9, truncated=True), sampled(2.0, 2), sampled(3.0, 3)], 0.0) == 1
    assert select([sampled(0.1, 9, truncated=True)], 0.0) is None


@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 20), st.floats(0, 1), st.booleans()), max_size=12),
    st.floats(0, 1),
)
def test_what_is_selected_passes_and_nothing_that_passes_is_likelier(
    rows: list[tuple[float, int, float, bool]], threshold: float
) -> None:
    samples = [sampled(*row) for row in rows]
    passing = [s for s in samples if s.quality >= threshold and not s.truncated]
    place = select(samples, threshold)
    if place is None:
        assert not passing
    else:
        assert samples[place] in passing
        assert samples[place].nll_per_token == min(s.nll_per_token for s in passing)


# -- measurement ------------------------------------------------------------------------------------------------------


def test_values_of_a_question_by_hand() -> None:
    answered = [
        Answered(sampled(2.0, 4, 0.5, answer="7"), True),  # 0.5 per token
        Answered(sampled(3.0, 10, 0.7, answer="8"), False),  # 0.3 per token: selected
        Answered(sampled(7.0, 7, 0.1, answer="8"), False),
        Answered(sampled(8.0, 8, 0.2, truncated=True, answer=None), True),
    ]
    values = question_values(answered, 0.0)
    # totals, though the selection is per token; the cut sample counts in one of them
    assert (values.solver, values.solver_all, values.verifier) == (4.0, 5.0, 3.0)
    assert values.solver_per_token == pytest.approx((0.5 + 0.3 + 1) / 3)
    assert values.verifier_per_token == pytest.approx(0.3)
    assert (values.tokens, values.selected_tokens) == (29 / 4, 10.0)
    assert (values.score, values.selected_score, values.any_right) == (0.5, 0.0, 1.0)
    assert (values.quality, values.answers, values.kept, values.truncated) == (0.7, 0.5, 1.0, 0.25)


def test_where_nothing_is_kept_there_is_no_gap_and_the_count_says_so() -> None:
    unsure = question_values([Answered(sampled(2.0, 4, 0.5), True), Answered(sampled(4.0, 4, 0.5), False)], 0.9)
    assert (unsure.solver_all, unsure.score, unsure.kept) == (3, 0.5, 0)
    for name in ("solver", "verifier", "solver_per_token", "verifier_per_token", "selected_score", "quality"):
        assert isnan(getattr(unsure, name))
    sure = question_values([Answered(sampled(6.0, 4, 0.95), True), Answered(sampled(8.0, 4, 0.5), False)], 0.9)
    both = Point(0, (unsure, sure))
    assert (both.mean("solver"), both.mean("verifier"), both.gap) == (7, 6, 1)  # not (3 + 7) / 2 against (3 + 6) / 2
    assert (both.mean("solver_all"), both.mean("score"), both.kept) == (5, 0.5, 1)
    assert both.relative_gap == pytest.approx((1 - 0.5) / (1 - 0.5))
    none = Point(0, (unsure, unsure))
    assert (none.kept, none.relative_gap, summary(none)["verifier"], summary(none)["gap"]) == (0, None, None, None)
    assert to_curve([none, both, both]) is None
    assert to_csv([none, none]) == "time,solver,verifier\n"
    assert [line.split(",")[0] for line in to_csv([none, both]).split()[1:]] == ["0"]


def test_errors_leave_out_questions_without_a_value() -> None:
    values = np.array([[2.0, 12.0, nan], [1.0, 12.0, 4.0], [nan, 5.0, nan]])
    found = level_errors(values)
    assert found[0] == pytest.approx(5.0)
    assert found[1] == pytest.approx(np.std([1, 12, 4], ddof=1) / sqrt(3))
    assert isnan(found[2])
    # deviations from each question's own mean: 0.5 and 12 - 29/3
    deviations = np.array([0.5, 12 - 29 / 3])
    assert curve_errors(values)[0] == pytest.approx(np.std(deviations, ddof=1) / sqrt(2) * sqrt(3 / 2))
    assert -0.99 <= error_correlation(values, values) <= 0.99


def test_the_table_shows_what_is_left_out_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    cut = question_values([Answered(sampled(20.0, 40, truncated=True), False)] * 3 + [Answered(sampled(9, 9), True)], 0)
    lost = question_values([Answered(sampled(20.0, 40, truncated=True), False)] * 4, 0)
    Console(width=80).print(points_table([Point(10.5, (cut, lost) * 48), Point(11, (lost, lost))]))
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[-3:] == ["pass@N", "kept", "cut"]
    assert shown[2].split()[-2:] == ["48/96", "88%"]
    assert max(map(len, shown)) <= 80
    assert shown[3].split() == ["11", "-", "-", "-", "20.00", "40", "-", "0.000", "-", "0.000", "0/2", "100%"]


def point(time: float, *rows: tuple[float, float, float]) -> Point:
    """Questions given as (NLL of the likelier sample, NLL of the other, right share 0, 0.5 or 1); 2 tokens each."""
    return Point(
        time,
        tuple(
            question_values(
                [Answered(sampled(low, 2, exp(-low / 2)), right > 0), Answered(sampled(high, 2, 0.1), right > 0.5)], 0.0
            )
            for low, high, right in rows
        ),
    )


def test_means_and_relative_gap_are_pooled_over_questions() -> None:
    measured = point(0, (1, 3, 0.5), (2, 4, 0.0), (1, 1, 1.0))
    assert measured.mean("solver") == pytest.approx((2 + 3 + 1) / 3)
    assert measured.gap == pytest.approx((1 + 1 + 0) / 3)
    assert measured.relative_gap == pytest.approx((2 / 3 - 0.5) / (1 - 0.5))
    assert point(0, (1, 2, 1.0), (1, 2, 1.0)).relative_gap is None  # nothing is left to gain


def test_errors_beside_other_times_leave_out_what_is_always_hard() -> None:
    points = [point(0, (1, 3, 0), (11, 13, 0)), point(1, (1, 1, 0), (11, 13, 0))]
    values = table(points, "solver")  # (2, 12), (1, 12)
    assert values.tolist() == [[2, 12], [1, 12]]
    assert level_errors(values)[0] == pytest.approx(5.0)  # standard deviation sqrt(50), over sqrt(2)
    # deviations from a question's own mean: +-0.5 and 0; of a time: sd sqrt(0.125), over sqrt(2), times sqrt(2 / 1)
    assert curve_errors(values).tolist() == pytest.approx([sqrt(0.125)] * 2)
    assert curve_errors(values[:1])[0] == level_errors(values[:1])[0]
    assert error_correlation(values, values) == pytest.approx(0.99)  # clipped
    assert error_correlation(values, -values) == pytest.approx(-0.99)
    assert error_correlation(values, values * 0) == 0


def test_the_curves_file_is_what_gap_fit_reads(tmp_path: Path) -> None:
    points = [
        point(0, (1, 3, 0.5), (2, 6, 1)), point(0.5, (1, 2.5, 1), (1.5, 5, 0.5)), point(1, (0.5, 2, 1), (1, 3, 1))
    ]  # fmt: skip
    (tmp_path / "curves.csv").write_text(to_csv(points), encoding="utf-8")
    (read,), ignored = read_curves(tmp_path / "curves.csv")
    made = to_curve(points)
    assert made is not None
    assert read.times == (0, 0.5, 1)
    for name in ("solver", "verifier", "solver_se", "verifier_se", "score", "assessed"):
        assert getattr(read, name) == pytest.approx(getattr(made, name))
    assert read.correlation == pytest.approx(made.correlation)
    assert "relative_gap" in ignored


def test_errors_that_are_zero_are_left_out_instead_of_breaking_the_fit() -> None:
    same = [point(t, (1, 3, 0.5), (1, 3, 0.5)) for t in (0, 0.5, 1)]
    curve = to_curve(same)
    assert curve is not None
    assert curve.solver_se is None
    assert curve.score_se is None
    assert "solver_se" not in to_csv(same)


def test_the_end_is_forecast_from_the_beginning_alone() -> None:
    from selfdev.dynamics import Curve

    def curve(last: float) -> Curve:
        times = [0.5 * i for i in range(11)]
        fall = [*(exp(-0.6 * t) for t in times[:-1]), last]
        return Curve(tuple(times), tuple(2 + f for f in fall), tuple(1 + 0.5 * f for f in fall))

    found = end_forecast(curve(exp(-3.0)), 3.0)
    assert found is not None
    assert (found["points"], found["from"], found["to"]) == (7, [0.0, 3.0], 5.0)
    assert found["models"]["one rate"]["solver"]["value"] == pytest.approx(2 + exp(-3.0), abs=1e-4)
    assert found["models"]["persistence"]["solver"]["value"] == pytest.approx(2 + exp(-1.8))
    # too little change forecast is a miss above 0
    assert found["models"]["persistence"]["solver"]["miss"] == pytest.approx((exp(-1.8) - exp(-3)) / (1 - exp(-3)))
    other = end_forecast(curve(5.0), 3.0)
    assert other is not None
    assert other["models"]["one rate"]["solver"]["value"] == found["models"]["one rate"]["solver"]["value"]
    assert end_forecast(curve(0.0), 1.0) is None  # three points tell nothing
    assert end_forecast(curve(0.0), 5.0) is None  # nothing is left to forecast


# -- external answers -------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    assert cross.shares("early", 5) == [1, 0, 0, 0, 0]
    assert cross.shares("late", 10).index(1) == 7  # the paper's round 8
    assert cross.shares("late", 1) == [1]
    assert cross.shares("uniform", 4) == [0.25] * 4
    assert cross.shares("none", 3) == [0, 0, 0]


@given(st.sampled_from(["early", "uniform", "late"]), st.integers(1, 30), st.integers(1, 500))
def test_every_schedule_brings_in_every_row_once(schedule: str, epochs: int, total: int) -> None:
    rows = cross.counts(total, cross.shares(schedule, epochs))
    assert sum(rows) == total
    assert min(rows) >= 0
    assert max(rows) - min(rows) <= 1 or schedule != "uniform"


def test_gamma_by_hand() -> None:
    # shares 1/4 and 3/4; before / after - 1 = 0.1 and 0.3: a line of slope 0.4
    found = cross.gamma_of_epochs([1.1 * 1.3, 1.3, 1.0], [1, 3])
    assert found is not None
    assert found.value == pytest.approx(0.4)
    assert cross.gamma_of_epochs([2.0, 1.0], [0]) is None
    assert cross.gamma_of_epochs([2.0, nan], [3]) is None
    one = cross.gamma_of_epochs([3.0, 2.0], [5])
    assert one is not None
    assert (one.value, one.bounded) == (0.5, False)
