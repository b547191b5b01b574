"""The gap, against numbers worked by hand, against brute force over all subsets, and its intervals by simulation."""

from __future__ import annotations

import time
from itertools import combinations
from math import comb, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.gap import JudgedSample, curve_of, distinct_share, mean_gain, measure, pick_shares
from selfdev.gap_records import WORDS, Gap, Quantity, from_record


def sample(nll: float, tokens: int, judged: float, score: float | None, result: str | None = None) -> JudgedSample:
    return JudgedSample(nll, tokens, judged, score, None if score is None else score > 0.45, result)


# NLL per token: a 1.0, b 2.0, c 4.0, d 0.5 (failed)
A = sample(10.0, 10, 0.9, 0.8, "x")
B = sample(40.0, 20, 0.3, 0.5, "y")
C = sample(20.0, 5, 0.6, 0.2, "x")
D = sample(5.0, 10, 0.7, None)


def values(*samples: JudgedSample, n: int = 2, threshold: float = 0.0) -> dict[str, float | None]:
    gap = measure("by hand", samples, n, threshold, resamples=50)
    assert gap is not None
    return {name: quantity.value for name, quantity in gap.quantities.items()}


def test_shares_by_hand() -> None:
    ones, every = np.ones((1, 4)), np.ones(4, bool)
    # best of 2 out of 4: C(3,1)/C(4,2) = 1/2, then 2/6, 1/6, 0
    assert pick_shares(ones, np.array([1.0, 2, 3, 4]), every, 2)[0] == pytest.approx([1 / 2, 1 / 3, 1 / 6, 0])
    assert pick_shares(ones, np.array([4.0, 3, 2, 1]), every, 2)[0] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    assert pick_shares(ones, np.array([1.0, 1, 2, 3]), every, 2)[0] == pytest.approx([5 / 12, 5 / 12, 1 / 6, 0])
    assert pick_shares(ones, np.arange(4.0), every, 9)[0] == pytest.approx([1, 0, 0, 0])  # more than there are
    # the best may not be selected: the second is in 3 of 6 subsets, the third alone in 2, the last in none: 1 is empty
    eligible = np.array([False, True, True, False])
    assert pick_shares(ones, np.arange(4.0), eligible, 2)[0] == pytest.approx([0, 3 / 5, 2 / 5, 0])
    assert np.isnan(pick_shares(ones, np.arange(4.0), np.zeros(4, bool), 2)).all()
    # the first occurs twice: of 6 pairs of 4 it is in 5
    assert pick_shares(np.array([[2.0, 1, 1, 0]]), np.arange(4.0), every, 2)[0] == pytest.approx([5 / 6, 1 / 6, 0, 0])


def test_uncertainty_by_hand() -> None:
    found = values(A, B, C, D)
    assert found["solver_nll"] == pytest.approx(75 / 4)
    # by NLL per token d, a, b, c: d in 3 of 6 pairs, a in 2 more, b in 1
    assert found["verifier_nll"] == pytest.approx((3 * 5 + 2 * 10 + 40) / 6)
    assert found["nll_gap"] == pytest.approx(75 / 4 - 75 / 6)
    assert found["solver_nll_per_token"] == pytest.approx(7.5 / 4)
    assert found["verifier_nll_per_token"] == pytest.approx((3 * 0.5 + 2 * 1 + 2) / 6)
    assert found["verifier_tokens"] == pytest.approx((3 * 10 + 2 * 10 + 20) / 6)
    assert (found["solver_valid"], found["verifier_valid"]) == pytest.approx((3 / 4, 1 / 2))


def test_the_threshold_drops_before_the_selection() -> None:
    # b is judged below: d, a, c are left; c is selected only beside b; every pair has one that is left
    found = values(A, B, C, D, threshold=0.5)
    assert found["verifier_nll"] == pytest.approx((3 * 5 + 2 * 10 + 20) / 6)
    assert found["solver_nll"] == pytest.approx(75 / 4)
    # a and d are left: d in 3 pairs, a in 2 more, b and c together have none and do not count
    assert values(A, B, C, D, threshold=0.65)["verifier_nll"] == pytest.approx((3 * 5 + 2 * 10) / 5)
    nothing = values(A, B, C, D, threshold=0.95)
    assert (nothing["verifier_nll"], nothing["nll_gap"]) == (None, None)
    assert nothing["verifier_score"] is not None  # ranks, needs no threshold


def test_utility_by_hand() -> None:
    found = values(A, B, C, D)
    assert found["solver_score"] == pytest.approx(0.5)
    # judged a 0.9, c 0.6, b 0.3: a in 2 of 3 pairs, c in the third
    assert found["verifier_score"] == pytest.approx((2 * 0.8 + 0.2) / 3)
    assert found["score_gap"] == pytest.approx(0.1)
    assert found["relative_gap"] == pytest.approx(0.1 / 0.5)
    assert found["better"] == pytest.approx(2 / 3)
    assert found["pass_at_n"] == pytest.approx(1)  # of every pair one is better
    assert found["best_at_n"] == pytest.approx((2 * 0.8 + 0.5) / 3)
    # better are a (0.9) and b (0.3), not c (0.6): one of the two pairs in order
    assert found["auc"] == pytest.approx(0.5)
    assert found["brier"] == pytest.approx((0.1**2 + 0.7**2 + 0.6**2) / 3)
    assert found["diversity"] == pytest.approx(2 / 3)  # x y, x x, y x


def test_pass_at_n_by_hand() -> None:
    # one of five is better: 1 - C(4,2)/C(5,2)
    assert values(*[sample(1.0 + i, 1, 0.5, 0.4) for i in range(4)], A)["pass_at_n"] == pytest.approx(0.4)


def test_ties_of_the_verifier_count_half() -> None:
    found = values(sample(1, 1, 0.5, 0.9), sample(1, 1, 0.5, 0.1), sample(1, 1, 0.5, 0.2))
    assert found["auc"] == 0.5
    assert found["score_gap"] == pytest.approx(0, abs=1e-12)


def test_what_is_not_defined_is_none() -> None:
    perfect = values(sample(1, 1, 0.2, 1.0), sample(2, 1, 0.4, 1.0))
    assert perfect["relative_gap"] is None
    assert perfect["auc"] is None
    failed = values(D, D)
    assert failed["solver_score"] is failed["verifier_score"] is failed["pass_at_n"] is failed["diversity"] is None
    assert failed["nll_gap"] == pytest.approx(0)
    assert measure("alone", [A], 2) is None
    assert distinct_share(["x"]) is None


def test_a_record_comes_back() -> None:
    gap = measure("v", [A, B, C, D] * 4, 4, 0.5)
    assert gap is not None
    assert (gap.samples, gap.scored, gap.kept, gap.n) == (16, 12, 12, 4)
    assert from_record("v", gap.record()) == gap
    assert set(gap.quantities) == set(WORDS)


rows = st.tuples(st.integers(0, 20), st.integers(1, 6), st.integers(0, 4), st.one_of(st.none(), st.integers(0, 10)))


@given(st.lists(rows, min_size=2, max_size=7), st.integers(1, 9), st.integers(0, 4))
def test_expectations_equal_the_mean_over_all_subsets(given_rows, n, least) -> None:
    samples = [
        JudgedSample(float(nll), tokens, judged / 4, None if s is None else s / 10, None if s is None else s > 5)
        for nll, tokens, judged, s in given_rows
    ]
    found = values(*samples, n=n, threshold=least / 4)

    def selected(subset, criterion, what) -> float | None:
        best = [s for s in subset if criterion(s) == min(map(criterion, subset))]
        return sum(map(what, best)) / len(best) if best else None

    def expected(pool, keep, criterion, what) -> float | None:
        subsets = [[s for s in c if keep(s)] for c in combinations(pool, min(n, len(pool)))]
        picks = [selected(subset, criterion, what) for subset in subsets if subset]
        return sum(picks) / len(picks) if picks else None

    close = {"rel": 1e-9, "abs": 1e-9}
    u_v = expected(samples, lambda s: s.judged >= least / 4, lambda s: s.nll / s.tokens, lambda s: s.nll)
    assert found["verifier_nll"] == (None if u_v is None else pytest.approx(u_v, **close))
    ran = [s for s in samples if s.score is not None]
    if ran:
        assert found["verifier_score"] == pytest.approx(
            expected(ran, bool, lambda s: -s.judged, lambda s: s.score), **close
        )
        assert found["best_at_n"] == pytest.approx(expected(ran, bool, lambda s: -s.score, lambda s: s.score), **close)
        good, size = sum(map(bool, (s.better for s in ran))), min(n, len(ran))
        assert found["pass_at_n"] == pytest.approx(1 - comb(len(ran) - good, size) / comb(len(ran), size), **close)


# -- intervals --------------------------------------------------------------------------------------------------------


def drawn(rng: np.random.Generator, count: int) -> list[JudgedSample]:
    """Programs whose likelihood goes with their quality, a tenth of which fail."""
    quality, tokens = rng.normal(size=count), rng.integers(60, 200, size=count)
    per_token = np.exp(rng.normal(-1.5, 0.4, size=count) - 0.2 * quality)
    score = np.clip(0.5 + 0.15 * quality + 0.05 * rng.normal(size=count), 0, 1)
    return [
        sample(float(p * t), int(t), float(np.exp(-p)), float(s) if runs else None)
        for p, t, s, runs in zip(per_token, tokens, score, rng.random(count) < 0.9, strict=True)
    ]


def test_intervals_cover() -> None:
    """300 draws of 64 samples: 95 % intervals hold the value of a population of 40,000. Few draws may miss more."""
    rng, draws = np.random.default_rng(3), 300
    truth = measure("population", drawn(rng, 40_000), 16, 0.5, resamples=2)
    assert truth is not None
    held = dict.fromkeys(
        ("solver_nll", "verifier_nll", "nll_gap", "verifier_nll_per_token", "solver_score", "verifier_score",
         "score_gap", "relative_gap", "auc", "brier", "better"), 0,
    )  # fmt: skip
    for draw in range(draws):
        gap = measure("draw", drawn(rng, 64), 16, 0.5, resamples=200, seed=draw)
        assert gap is not None
        for name in held:
            q, true = gap.quantities[name], truth.quantities[name].value
            assert q.low is not None
            assert q.high is not None
            assert true is not None
            held[name] += q.low <= true <= q.high
    assert min(held.values()) >= 0.89 * draws, held
    assert sum(held.values()) <= 0.985 * draws * len(held), held  # nor are they wide for safety


def test_a_selection_of_everything_has_no_interval() -> None:
    gap = measure("v", drawn(np.random.default_rng(0), 12), 16)
    assert gap is not None
    assert gap.n == 12
    assert gap.quantities["verifier_nll"].low is None
    assert gap.quantities["solver_nll"].low is not None


def test_two_thousand_resamples_are_quick_and_repeat() -> None:
    samples = drawn(np.random.default_rng(0), 96)
    begun = time.perf_counter()
    first = measure("v", samples, 16, 0.5, seed=7)
    assert time.perf_counter() - begun < 2  # on a busy machine; 0.1 s alone
    assert measure("v", samples, 16, 0.5, seed=7) == first
    assert measure("v", samples, 16, 0.5, seed=8) != first


# -- over iterations --------------------------------------------------------------------------------------------------


def test_mean_gain_by_hand() -> None:
    # gains of 2 programs on 2 questions: (1, 0), (1, 1) - (0, 1) = (1, -1), (1, 0)
    gain = mean_gain([[True, False], [True, True]], [False, True])
    assert gain.value == pytest.approx(0.25)
    # means of programs 0, 0.5: variance 0.125; of questions 1, -0.5: variance 1.125; each over 2
    assert gain.se == pytest.approx((0.125 / 2 + 1.125 / 2) ** 0.5)
    assert mean_gain([], [True]) == Quantity(None)


def gap_of(solver: float, verifier: float, se: float | None = 0.5) -> Gap:
    quantities = {"solver_nll": Quantity(solver, se=se), "verifier_nll": Quantity(verifier, se=se)}
    return Gap("v", 10, 10, 10, 4, quantities, correlation=0.3)


def test_curves() -> None:
    gaps = {i: gap_of(30.0 - i, 20.0 - i / 2) for i in (1, 2, 3)}
    gains = {i: Quantity(0.1 * i, se=0.05) for i in (1, 2, 3)}
    curve = curve_of(gaps, gains)
    assert curve is not None
    assert (curve.times, curve.solver, curve.verifier) == ((1, 2, 3), (29, 28, 27), (19.5, 19, 18.5))
    assert (curve.solver_se, curve.correlation) == ((0.5,) * 3, pytest.approx(0.3))
    assert (curve.score, curve.score_se) == (pytest.approx((0.1, 0.2, 0.3)), (0.05,) * 3)
    assert curve_of({i: gaps[i] for i in (1, 2)}, gains) is None
    without = curve_of(gaps | {2: gap_of(28, 19, None)}, {1: Quantity(0.1)})
    assert without is not None
    assert without.solver_se is without.score is None


def test_nan_never_leaves() -> None:
    for samples in ([A, B, C, D], [D, D], [A, A]):
        gap = measure("v", samples, 2, 0.99, resamples=20)
        assert gap is not None
        assert nan not in [q.value for q in gap.quantities.values()]
        assert all(q.value is None or q.value == q.value for q in gap.quantities.values())
