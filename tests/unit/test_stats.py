from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import comb, factorial, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.stats import (
    discordant,
    e_better,
    e_bh,
    holm,
    log_e_better,
    mcnemar,
    paired_gain,
    paired_interval,
    wilson_interval,
)


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


def test_a_paired_gain_counts_common_questions_only() -> None:
    """Of four common questions two are won and one is lost: (2 - 1) / 4, with the interval of these counts."""
    first = [True, True, False, True, None, True]
    second = [False, False, True, True, True, None]
    assert paired_gain(first, second) == (0.25, *paired_interval(2, 1, 4))
    assert paired_gain(second, first)[0] == -0.25
    with pytest.raises(ValueError, match="no question that both were asked"):
        paired_gain([True, None], [None, True])


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


# -- paired tests and intervals ---------------------------------------------------------------------------------------


def test_discordant_counts_only_what_both_were_asked() -> None:
    assert discordant([True, True, False, None, True], [True, False, True, True, None]) == (1, 1, 3)
    with pytest.raises(ValueError, match="same questions"):
        discordant([True], [True, False])


def test_score_interval_without_discordance_by_hand() -> None:
    # no question tells them apart: n d^2 / (1 - |d|) = z^2 on either side, so |d| = z^2 / (n + z^2) = 3.841459 / 103.84
    assert paired_interval(0, 0, 100) == (pytest.approx(-0.036994, abs=1e-6), pytest.approx(0.036994, abs=1e-6))


def test_score_interval_without_losses_by_hand() -> None:
    # 5 wins in 10: the upper end is Wilson's; at the lower end (5 - 10 d) = z^2 (1 + d), d = 1.158541 / 13.841459
    low, high = paired_interval(5, 0, 10)
    assert low == pytest.approx(1.158541 / 13.841459, abs=1e-6)
    assert high == pytest.approx(wilson_interval(5, 10)[1], abs=1e-9)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
def test_score_interval_holds_the_estimate_and_mirrors(wins: int, losses: int, agreed: int) -> None:
    n = wins + losses + agreed
    low, high = paired_interval(wins, losses, n)
    assert -1 <= low <= high <= 1
    if n:
        assert low < (wins - losses) / n + 1e-12
        assert high > (wins - losses) / n - 1e-12
    mirrored = paired_interval(losses, wins, n)
    assert (-mirrored[1], -mirrored[0]) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_score_interval_covers_where_the_normal_one_does_not() -> None:
    """20 questions, wins 10 %, losses 5 %: chance that the interval holds the true 5 points, summed over all counts."""
    n, p, q = 20, 0.10, 0.05
    score = normal = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            chance = comb(n, b) * comb(n - b, c) * p**b * q**c * (1 - p - q) ** (n - b - c)
            low, high = paired_interval(b, c, n)
            score += chance * (low <= p - q <= high)
            reach = 1.96 * (b + c - (b - c) ** 2 / n) ** 0.5 / n  # the variance of the differences, no more
            normal += chance * (abs((b - c) / n - (p - q)) <= reach)
    assert score > 0.94
    assert normal < 0.92


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(1, 5) == 2 * (1 + 6) / 64
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1.0


def test_mcnemar_is_scipys_binomial_test() -> None:
    from scipy.stats import binomtest

    for wins, losses in [(10, 3), (40, 61), (700, 640), (2100, 1900)]:
        assert mcnemar(wins, losses) == pytest.approx(binomtest(wins, wins + losses).pvalue, rel=1e-9)


def test_holm_by_hand() -> None:
    # sorted 0.01 0.02 0.03 0.5: times 4, 3, 2, 1 = 0.04 0.06 0.06 0.5, never falling
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


# -- evidence ---------------------------------------------------------------------------------------------------------


def exact_e(wins: int, losses: int) -> Fraction:
    """2 * 2^n * integral of p^w (1-p)^l over (1/2, 1), expanded as a binomial sum in whole numbers."""
    n = wins + losses + 1
    return Fraction(sum(comb(n, k) for k in range(wins + 1)) * factorial(wins) * factorial(losses), factorial(n))


def test_e_value_by_hand() -> None:
    # one win: 2 * 2 * integral of p over (1/2, 1) = 4 * 3/8 = 3/2; one loss: 4 * 1/8 = 1/2; seven wins: (2^8 - 1) / 8
    assert e_better(0, 0) == 1.0
    assert e_better(1, 0) == pytest.approx(1.5)
    assert e_better(0, 1) == pytest.approx(0.5)
    assert e_better(7, 0) == pytest.approx(255 / 8)


@given(st.integers(0, 60), st.integers(0, 60))
def test_e_value_is_the_mixture(wins: int, losses: int) -> None:
    assert e_better(wins, losses) == pytest.approx(float(exact_e(wins, losses)), rel=1e-11)


def test_e_value_is_the_beta_form() -> None:
    from scipy.special import betaln
    from scipy.stats import beta

    for wins, losses in [(3, 9), (200, 180), (900, 1000)]:
        form = log(2) * (wins + losses + 1) + betaln(wins + 1, losses + 1) + beta(wins + 1, losses + 1).logsf(0.5)
        assert log_e_better(wins, losses) == pytest.approx(form, rel=1e-9)


def test_e_value_of_very_many_questions_stays_exact() -> None:
    # w wins alone: E = (2^(w+1) - 1) / (w + 1)
    assert log_e_better(5000, 0) == pytest.approx(5001 * log(2) - log(5001), rel=1e-12)
    assert e_better(5000, 0) == float("inf")
    assert log_e_better(0, 5000) == pytest.approx(-log(5001), rel=1e-12)


@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(2, 5), Fraction(1, 10), Fraction(0)])
def test_evidence_never_grows_on_average_for_a_model_that_is_not_better(share: Fraction) -> None:
    """The supermartingale property, exactly, after every history of up to 30 discordant questions."""
    for n in range(31):
        for wins in range(n + 1):
            now = exact_e(wins, n - wins)
            after = share * exact_e(wins + 1, n - wins) + (1 - share) * exact_e(wins, n - wins + 1)
            assert after <= now
            assert after == now or share < Fraction(1, 2)


def test_false_claims_at_any_of_200_looks_by_enumeration() -> None:
    """Equal models: the chance that the evidence ever reaches 20 within 200 discordant questions, path by path."""
    alive, claimed = {0: 1.0}, 0.0
    for n in range(1, 201):
        following: dict[int, float] = {}
        for wins, chance in alive.items():
            for more in (0, 1):
                following[wins + more] = following.get(wins + more, 0.0) + chance / 2
        hits = [w for w in following if log_e_better(w, n - w) >= log(20)]
        claimed += sum(following.pop(w) for w in hits)
        alive = following
    assert 0.01 < claimed <= 0.05


def test_e_bh_by_hand() -> None:
    # 4 hypotheses at 5 %: the k largest need 80 / k each: 80, 40, 26.7, 20
    assert e_bh([log(v) for v in (45.0, 41.0, 26.0, 1.0)], 0.05) == [True, True, False, False]
    assert e_bh([log(v) for v in (79.0, 39.0, 26.0, 19.0)], 0.05) == [False] * 4
    assert e_bh([log(20.0)] * 4, 0.05) == [True] * 4
    assert e_bh([], 0.05) == []
    with pytest.raises(ValueError, match="level"):
        e_bh([0.0], 1.0)


@pytest.mark.parametrize("call", [lambda: mcnemar(-1, 0), lambda: e_better(0, -1), lambda: paired_interval(3, 3, 5)])
def test_impossible_counts(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="need"):
        call()
