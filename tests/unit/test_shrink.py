from __future__ import annotations

import numpy as np
import pytest

from selfdev.shrink import between_variance, intact, shrunken_gains
from selfdev.stats import paired_interval


def rows_of(*texts: str) -> list[list[bool]]:
    return [[mark == "1" for mark in text] for text in texts]


def test_shrunken_gains_by_hand() -> None:
    """Four candidates, four questions; accuracies 1, 1/2, 1/2, 0 around a mean of 1/2; seed 1/2.

    Spread (1/4 + 1/4) / 3 = 1/6. Question means 3/4, 3/4, 1/4, 1/4. Residual sum of squares: 8 right answers
    - 16/4 - 4 (1/4 + 1/4) - 4 (4/16) = 1, over 9 degrees of freedom, over 4 questions: noise 1/36.
    Lost: (4-3)/(4-1) * (1/36) / (1/6) = 1/18.
    """
    found = shrunken_gains(rows_of("1100")[0], rows_of("1111", "1100", "1100", "0000"))
    assert [g.naive for g in found] == [0.5, 0.0, 0.0, -0.5]
    assert [g.shrunken for g in found] == pytest.approx([0.5 * 17 / 18, 0, 0, -0.5 * 17 / 18])
    # interval of the second: own noise 1/36 (1 - 1/18 * 3/4) = 0.026620; mean gain over the seed per question
    # -1/4, -1/4, 1/4, 1/4: variance (4/16) / 3 / 4 = 0.020833; 1.959964 * sqrt(0.047454) = 0.426956
    assert (found[1].low, found[1].high) == pytest.approx((-0.426956, 0.426956), abs=1e-5)


def test_identical_candidates_keep_no_distance() -> None:
    found = shrunken_gains([True, False, True], rows_of("110", "110", "110", "110"))
    assert [g.shrunken for g in found] == pytest.approx([0.0] * 4)


def test_three_candidates_stay_as_measured() -> None:
    found = shrunken_gains(rows_of("1100")[0], rows_of("1111", "1100", "0000"))
    assert [(g.naive, g.shrunken) for g in found] == [(0.5, 0.5), (0.0, 0.0), (-0.5, -0.5)]
    assert (found[0].low, found[0].high) == paired_interval(2, 0, 4)


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="same questions"):
        shrunken_gains([True, False], [[True]])


def test_intact_answers_more_than_half_of_what_the_seed_does() -> None:
    assert intact([True] * 4, [[True, True, False, False], [True] * 3 + [False], [None, None, True, False]]) == [1]


def test_between_variance_by_hand() -> None:
    # two candidates on 4 questions, 2 wins, 0 losses: squared difference 1/4, its sampling variance
    # (2/4 - 1/4) / 3 = 1/12; (1/4 - 1/12) / 2 = 1/12. A third question asked of one only changes nothing.
    assert between_variance([[True, True, True, False, None], [False, False, True, False, True]]) == pytest.approx(
        1 / 12
    )
    assert between_variance([[True, False], [False, True]]) == 0.0
    assert between_variance([[True, None], [None, True]]) == 0.0


def test_the_pairwise_estimate_is_that_of_the_analysis_of_variance() -> None:
    table = np.random.default_rng(0).random((6, 30)) < np.linspace(0.2, 0.9, 6)[:, None]
    k, n = table.shape
    by_row, by_column, mean = table.mean(1), table.mean(0), table.mean()
    residual = ((table - by_row[:, None] - by_column + mean) ** 2).sum() / ((k - 1) * (n - 1))
    assert between_variance(table.tolist()) == pytest.approx(by_row.var(ddof=1) - residual / n)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.0), (-0.02, 0.03)])
def test_most_of_the_winners_curse_goes(mean: float, deviation: float) -> None:
    """Best of 60 on 100 questions, all of accuracy 0.70 or normal around 0.68; the seed has 0.70."""
    naive, shrunken, covered = [], [], 0
    for number in range(40):
        rng = np.random.default_rng(number)
        gains = rng.normal(mean, deviation, 60)
        seed = rng.random(100) < 0.7
        found = shrunken_gains(seed.tolist(), (rng.random((60, 100)) < 0.7 + gains[:, None]).tolist())
        best = max(range(60), key=lambda i: found[i].naive)
        naive.append(found[best].naive - gains[best])
        shrunken.append(found[best].shrunken - gains[best])
        covered += found[best].low <= gains[best] <= found[best].high
    assert np.mean(naive) > 0.07
    assert abs(np.mean(shrunken)) < 0.25 * np.mean(naive)  # standard error: about 0.008, all of it the seed's
    assert covered >= 34  # 38 expected
