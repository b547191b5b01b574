from __future__ import annotations

from math import comb

import pytest

from selfdev.power import Verdict, power, resolvable_difference, verdict
from selfdev.stats import mcnemar


def test_power_by_hand() -> None:
    # every question discordant, 6 of them, all won with chance 0.9: the test rejects at 6 of 6 only (2 / 64 = 0.031)
    assert power(6, 0.8, 1.0) == pytest.approx(0.9**6)
    assert power(5, 1.0, 1.0) == 0.0  # 5 of 5 has p = 0.0625
    assert power(6, 1.0, 1.0) == 1.0


@pytest.mark.parametrize(("n", "difference", "discordance"), [(30, 0.2, 0.4), (60, 0.1, 0.15), (12, 0.3, 0.3)])
def test_power_is_the_sum_over_all_outcomes(n: int, difference: float, discordance: float) -> None:
    p, q = (discordance + difference) / 2, (discordance - difference) / 2
    expected = sum(
        comb(n, b) * comb(n - b, c) * p**b * q**c * (1 - p - q) ** (n - b - c)
        for b in range(n + 1)
        for c in range(min(b, n - b + 1))
        if mcnemar(b, c) <= 0.05
    )
    assert power(n, difference, discordance) == pytest.approx(expected, abs=1e-6)


def test_what_can_be_resolved_grows_finer_with_questions() -> None:
    found = [resolvable_difference(n, 0.15) for n in (100, 500, 2000)]
    assert found == sorted(found, reverse=True)
    difference = found[1]
    assert difference is not None
    assert power(500, difference, 0.15) >= 0.8 > power(500, difference - 2e-4, 0.15)


def test_too_few_questions_resolve_nothing() -> None:
    # 5 % of 20 questions: one discordant question, and six in a row would be needed
    assert resolvable_difference(20, 0.05) is None


def test_verdicts() -> None:
    assert verdict(20, 5, 0.004) is Verdict.BETTER
    assert verdict(5, 20, 0.004) is Verdict.WORSE
    assert verdict(20, 5, 0.06) is Verdict.NOT_RESOLVED
    assert verdict(0, 0, 0.0) is Verdict.NOT_RESOLVED
    assert verdict(20, 5, 0.004, level=0.001) == "not resolved"


@pytest.mark.parametrize("arguments", [(0, 0.1, 0.1), (10, 0.2, 0.1), (10, 0.0, 0.1), (10, 0.1, 1.1)])
def test_impossible_designs(arguments: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="need questions"):
        power(*arguments)
