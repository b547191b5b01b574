from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.stats import paired_difference, wilson_interval


def test_half_of_ten_by_hand() -> None:
    # z = 1.959964, z^2 = 3.841459; centre (0.5 + 0.19207) / 1.384146 = 0.5
    # spread 1.959964 * sqrt(0.025 + 0.0096036) / 1.384146 = 0.263405
    low, high = wilson_interval(5, 10)
    assert low == pytest.approx(0.236595, abs=1e-5)
    assert high == pytest.approx(0.763405, abs=1e-5)


def test_none_of_ten_by_hand() -> None:
    # upper bound z^2 / (n + z^2) = 3.841459 / 13.841459
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.277533, abs=1e-5))
    assert wilson_interval(10, 10) == (pytest.approx(0.722467, abs=1e-5), 1.0)


def test_another_confidence_by_hand() -> None:
    # 90 %: z = 1.644854, z^2 = 2.705543; 0 of 5 reaches up to 2.705543 / 7.705543
    assert wilson_interval(0, 5, confidence=0.9)[1] == pytest.approx(0.351117, abs=1e-5)


def test_no_trials_say_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "total", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (1, 3, 0.0)])
def test_impossible_arguments(successes: int, total: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="need"):
        wilson_interval(successes, total, confidence)


@given(st.integers(1, 2000), st.data())
def test_interval_holds_the_share_and_mirrors(total: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, total))
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total <= high <= 1
    assert low < high
    mirrored = wilson_interval(total - successes, total)
    assert (1 - mirrored[1], 1 - mirrored[0]) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_paired_difference_by_hand() -> None:
    # of 100 questions 20 are answered by the first alone, 10 by the second alone: difference 0.1,
    # variance (30 - 100 / 100) / 10000 = 0.0029, 1.96 * sqrt(0.0029) = 0.10555
    first = [True] * 20 + [False] * 10 + [True] * 70
    second = [False] * 20 + [True] * 10 + [True] * 70
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx(0.1)
    assert (low, high) == (pytest.approx(-0.00555, abs=1e-5), pytest.approx(0.20555, abs=1e-5))
    assert paired_difference(second, first)[0] == pytest.approx(-0.1)
    assert paired_difference([True, False], [True, False]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("lengths", [(0, 0), (1, 2)])
def test_paired_difference_needs_the_same_questions(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="same number"):
        paired_difference([True] * lengths[0], [True] * lengths[1])
