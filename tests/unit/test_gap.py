"""The gap, against numbers worked by hand, against brute force over all subsets, and its intervals by simulation."""

from __future__ import annotations

import time
from dataclasses import replace
from io import StringIO
from itertools import combinations
from math import comb, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from selfdev.gap import (
    JudgedSample,
    curve_of,
    distinct_share,
    is_better,
    mean_gain,
    measure,
    measure_uncertainty,
    pick_shares,
)
from selfdev.gap_records import UNCERTAINTY, WORDS, Gap, Quantity, from_record
from selfdev.report.gap import gap_tables

QUESTIONS = 20
WRONG = [False] * QUESTIONS  # the seed's verdicts: a score is a gain, and from 5 right answers on a program is better


def right(score: float, questions: int = QUESTIONS) -> list[bool]:
    return [i < round(score * questions) for i in range(questions)]


def sample(nll: float, tokens: int, judged: float, score: float | None, result: str | None = None) -> JudgedSample:
    """A program that answers this share of the questions; None: it failed."""
    return JudgedSample(nll, tokens, judged, score is not None, None if score is None else right(score), result)


# NLL per token: a 1.0, b 2.0, c 4.0, d 0.5 (failed)
A = sample(10.0, 10, 0.9, 0.8, "x")
B = sample(40.0, 20, 0.3, 0.5, "y")
C = sample(20.0, 5, 0.6, 0.2, "x")
D = sample(5.0, 10, 0.7, None)


def values(*samples: JudgedSample, n: int = 2, threshold: float = 0.0) -> dict[str, float | None]:
    gap = measure("true-false", samples, n, threshold, resamples=50, reference=WRONG)
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
    # judged a 0.9, c 0.6, b 0.3, d failed: a in 3 of 6 pairs, c in 2 more, b beside d
    assert found["verifier_score"] == pytest.approx((3 * 0.8 + 2 * 0.2 + 0.5) / 6)
    assert found["verifier_gain"] == pytest.approx(found["verifier_score"])
    assert found["score_gap"] == pytest.approx(0.05)
    assert found["relative_gap"] == pytest.approx(0.05 / 0.5)
    assert found["better"] == pytest.approx(2 / 4)  # what failed is not better
    assert found["pass_at_n"] == pytest.approx(5 / 6)  # all pairs but c and d
    assert found["best_at_n"] == pytest.approx((3 * 0.8 + 2 * 0.5 + 0.2) / 6)
    # better are a (0.9) and b (0.3), not c (0.6): one of the two pairs in order
    assert found["auc"] == pytest.approx(0.5)
    assert found["brier"] == pytest.approx((0.1**2 + 0.7**2 + 0.6**2) / 3)
    assert found["diversity"] == pytest.approx(2 / 3)  # x y, x x, y x


def test_pass_at_n_by_hand() -> None:
    # one of five is better: 1 - C(4,2)/C(5,2)
    assert values(*[sample(1.0 + i, 1, 0.5, 0.2) for i in range(4)], A)["pass_at_n"] == pytest.approx(0.4)


def test_better_is_what_the_sign_test_says() -> None:
    seed = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1.0])
    rows = np.array([[1, 1, 1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1, 0, 0], seed])
    # 5 to 0: 1/32; 4 to 0: 1/16; 7 to 1: 9/256; 0 to 0: 1
    assert list(is_better(rows, seed)) == [True, False, True, False]


def test_a_repeat_of_what_other_questions_scored_stays_out() -> None:
    """It ran, but its verdicts are on other questions: neither a score, nor a failure."""
    repeat = JudgedSample(1.0, 1, 1.0, ran=True)
    found, without = values(A, B, C, D, repeat), values(A, B, C, D)
    for name in ("solver_score", "verifier_score", "better", "pass_at_n", "best_at_n", "auc"):
        assert found[name] == without[name]
    assert found["solver_valid"] == pytest.approx(4 / 5)


def test_only_a_probability_has_a_brier_score() -> None:
    for name, told in (("true-false", True), ("likelihood", False), ("quality", False), ("implicit-reward", False)):
        gap = measure(name, [A, B, C, D], 2, resamples=10, reference=WRONG)
        assert gap is not None
        assert ("brier" in gap.quantities) is told
        assert from_record(name, gap.record()) == gap


def test_uncertainty_is_of_the_samples_that_were_drawn_for_it() -> None:
    looked = [JudgedSample(nll, 10, 0.9) for nll in (4.0, 8.0)]
    gap = measure("v", [A, B, C, D], 2, 0.5, 10, reference=WRONG, measured=looked, temperature=1.0)
    assert gap is not None
    assert (gap.samples, gap.measured, gap.kept, gap.temperature) == (4, 2, 2, 1.0)
    assert (gap.quantities["solver_nll"].value, gap.quantities["verifier_nll"].value) == (6, 4)
    assert gap.quantities["solver_score"].value == pytest.approx(0.5)
    nothing = measure("majority", [A, B, C, D], 2, 0.5, 10, reference=WRONG, measured=[])
    assert nothing is not None
    assert nothing.quantities["solver_nll"].value is None


def test_ties_of_the_verifier_count_half() -> None:
    found = values(sample(1, 1, 0.5, 0.9), sample(1, 1, 0.5, 0.1), sample(1, 1, 0.5, 0.2))
    assert found["auc"] == 0.5
    assert found["score_gap"] == pytest.approx(0, abs=1e-12)


def test_what_is_not_defined_is_none() -> None:
    perfect = values(sample(1, 1, 0.2, 1.0), sample(2, 1, 0.4, 1.0))
    assert perfect["relative_gap"] is None
    assert perfect["auc"] is None
    failed = values(D, D)
    assert failed["solver_score"] is failed["verifier_score"] is failed["best_at_n"] is failed["diversity"] is None
    assert failed["pass_at_n"] == failed["better"] == 0
    assert failed["nll_gap"] == pytest.approx(0)
    assert measure("alone", [A], 2) is None
    assert distinct_share(["x"]) is None


def test_a_record_comes_back() -> None:
    gap = measure("true-false", [A, B, C, D] * 4, 4, 0.5, reference=WRONG)
    assert gap is not None
    assert (gap.samples, gap.scored, gap.kept, gap.n) == (16, 12, 12, 4)
    assert from_record("true-false", gap.record()) == gap
    assert set(gap.quantities) == set(WORDS)


rows = st.tuples(st.integers(0, 20), st.integers(1, 6), st.integers(0, 4), st.one_of(st.none(), st.integers(0, 10)))


@given(st.lists(rows, min_size=2, max_size=7), st.integers(1, 9), st.integers(0, 4))
def test_expectations_equal_the_mean_over_all_subsets(given_rows, n, least) -> None:
    samples = [
        sample(float(nll), tokens, judged / 4, None if s is None else s / 10) for nll, tokens, judged, s in given_rows
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
    if any(s.ran for s in samples):
        score = {id(s): sum(s.verdicts or ()) / QUESTIONS for s in samples}

        def has(s) -> bool:
            return s.ran

        ranked = expected(samples, has, lambda s: -s.judged, lambda s: score[id(s)])
        assert found["verifier_score"] == pytest.approx(ranked, **close)
        best = expected(samples, has, lambda s: -score[id(s)], lambda s: score[id(s)])
        assert found["best_at_n"] == pytest.approx(best, **close)
        good, size = sum(score[id(s)] >= 5 / QUESTIONS for s in samples), min(n, len(samples))
        missed = comb(len(samples) - good, size) / comb(len(samples), size)
        assert found["pass_at_n"] == pytest.approx(1 - missed, **close)


# -- intervals --------------------------------------------------------------------------------------------------------


def questions(rng: np.random.Generator) -> np.ndarray:
    """How much harder each is than usual."""
    return rng.normal(0, 0.15, size=40)


def drawn(
    rng: np.random.Generator, count: int, asked: np.ndarray, mean: float = 0.1, runs: float = 0.9
) -> list[JudgedSample]:
    """Programs whose likelihood goes with their quality, which is that much above the seed's; a share of them runs."""
    quality, tokens = rng.normal(size=count), rng.integers(60, 200, size=count)
    per_token = np.exp(rng.normal(-1.5, 0.4, size=count) - 0.2 * quality)
    chance = 0.5 + mean + 0.12 * quality[:, None] - asked
    verdicts, ran = rng.random(chance.shape) < chance, rng.random(count) < runs
    return [
        JudgedSample(float(p * t), int(t), float(np.exp(-p)), bool(r), v if r else None)
        for p, t, v, r in zip(per_token, tokens, verdicts, ran, strict=True)
    ]


def seed_answers(rng: np.random.Generator, asked: np.ndarray) -> list[bool]:
    return list(rng.random(len(asked)) < 0.5 - asked)


def coverage(names: list[str], draws: int, fresh: bool = False, **population: float) -> tuple[dict[str, float], int]:
    """How often a 95 % interval that is told holds the population's value; and how many of all are told.

    Args:
        fresh: new questions in every draw (and a population over many); else those of the population.
    """
    rng = np.random.default_rng(3)
    asked = questions(rng)
    seed = seed_answers(rng, asked)

    def truth_on(asked: np.ndarray, seed: list[bool], count: int) -> list[float]:
        gap = measure("true-false", drawn(rng, count, asked, **population), 16, 0.5, 2, reference=seed)
        assert gap is not None
        return [float(gap.quantities[name].value or 0.0) for name in names]

    if fresh:
        several = [questions(rng) for _ in range(60)]
        truth = np.mean([truth_on(a, seed_answers(rng, a), 1_000) for a in several], axis=0)
    else:
        truth = np.array(truth_on(asked, seed, 20_000))
    held, told = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for draw in range(draws):
        if fresh:
            asked = questions(rng)
            seed = seed_answers(rng, asked)
        programs = drawn(rng, 64, asked, **population)
        gap = measure("true-false", programs, 16, 0.5, resamples=200, seed=draw, reference=seed)
        assert gap is not None
        for name, true in zip(names, truth, strict=True):
            q = gap.quantities[name]
            if q.low is not None:
                assert q.high is not None
                told[name] += 1
                held[name] += bool(q.low <= true <= q.high)
    return {name: held[name] / max(1, told[name]) for name in names}, sum(told.values())


ON_SAMPLES = [
    "solver_nll",
    "verifier_nll",
    "nll_gap",
    "verifier_nll_per_token",
    "solver_valid",
]


def test_intervals_cover() -> None:
    """200 draws of 64 samples on the same questions: 95 % intervals hold the value of a population of 20,000."""
    held, told = coverage(ON_SAMPLES, 200)
    assert min(held.values()) >= 0.89, held
    assert sum(held.values()) <= 0.985 * len(held), held  # nor are they wide for safety
    assert told > 0.95 * 200 * len(ON_SAMPLES)


def test_intervals_of_scores_cover_over_fresh_questions() -> None:
    held, _ = coverage(
        ["solver_score", "verifier_score", "verifier_gain", "score_gap", "relative_gap"], 150, fresh=True
    )
    assert min(held.values()) >= 0.9, held


@pytest.mark.parametrize(("mean", "least"), [(0.1, 0.84), (0.0, 0.92)])  # 36 and 13 % are better
def test_intervals_of_what_rests_on_the_sign_test_cover_over_fresh_questions(mean: float, least: float) -> None:
    """With the noise of the programs alone they held it in 47 to 94 % of the draws."""
    held, told = coverage(["auc", "better", "pass_at_n", "brier"], 150, fresh=True, mean=mean)
    assert min(held.values()) >= least, held
    assert told > 400


def test_the_ends_of_pass_at_n_are_those_of_the_share() -> None:
    found = measure("v", drawn(np.random.default_rng(5), 64, np.zeros(40)), 16, reference=[False, True] * 20)
    assert found is not None
    better, passed = found.quantities["better"], found.quantities["pass_at_n"]
    assert better.low is not None
    assert better.high is not None
    for end, share in ((passed.low, better.low), (passed.value, better.value), (passed.high, better.high)):
        # C(64 (1 - share), 16) / C(64, 16) as a product of 16 factors
        assert share is not None
        missed = np.prod([max(0.0, (64 * (1 - share) - i) / (64 - i)) for i in range(16)])
        assert end == pytest.approx(1 - missed, abs=1e-9)


@pytest.mark.parametrize(
    ("population", "names"),
    [
        ({"mean": -0.07}, ["auc", "better", "pass_at_n", "brier"]),  # 6 % are better
        ({"runs": 0.06}, ["solver_valid", "solver_score", "score_gap", "brier"]),
    ],
)
def test_intervals_cover_where_few_are_better_or_run(population: dict[str, float], names: list[str]) -> None:
    held, told = coverage(names, 150, **population)
    assert told > 100
    assert min(held.values()) >= 0.9, held


def test_what_does_not_vary_has_no_interval() -> None:
    perfect = measure("v", [sample(1.0 + i, 1, 0.5, 1.0) for i in range(20)], 4, reference=WRONG)
    assert perfect is not None
    for name in ("better", "pass_at_n", "solver_valid", "solver_score"):
        assert perfect.quantities[name] == Quantity(pytest.approx(1.0)), name


def test_a_selection_of_everything_has_no_interval() -> None:
    gap = measure("v", drawn(np.random.default_rng(0), 12, np.zeros(20)), 16, reference=WRONG)
    assert gap is not None
    assert gap.n == 12
    assert gap.quantities["verifier_nll"].low is None
    assert gap.quantities["solver_nll"].low is not None


def test_two_thousand_resamples_are_quick_and_repeat() -> None:
    samples = drawn(np.random.default_rng(0), 96, np.zeros(20))
    begun = time.perf_counter()
    first = measure("v", samples, 16, 0.5, seed=7, reference=WRONG)
    assert time.perf_counter() - begun < 2  # on a busy machine; 0.1 s alone
    assert measure("v", samples, 16, 0.5, seed=7, reference=WRONG) == first
    assert measure("v", samples, 16, 0.5, seed=8, reference=WRONG) != first


def test_tables_fit_80_columns() -> None:
    wide = (-100.0, -200.0, 200.0, 1.0)
    gap = measure("true-false", [A, B, C, D], 2, reference=WRONG)
    assert gap is not None
    bounded = {"auc": Quantity(0.5, 0.0, 1.0), "pass_at_n": Quantity(0.5, 0.0, 1.0), "brier": Quantity(0.25)}
    quantities = dict.fromkeys(gap.quantities, Quantity(-1.0, -1.0, 1.0)) | bounded
    quantities |= {"solver_nll": Quantity(500.0), "verifier_nll": Quantity(500.0), "nll_gap": Quantity(*wide)}
    inside = replace(gap, samples=0, quantities={name: quantities[name] for name in UNCERTAINTY})
    gaps: dict[float, dict[str, Gap]] = {
        i: {"implicit-reward": replace(gap, quantities=quantities) if i in (1, 2) else inside}
        for i in (1, 1 + 2 / 3, 2)
    }
    for number, table in enumerate(gap_tables(gaps, {1: Quantity(-1.0, -1.0, 1.0)}, 0.95)):
        console = Console(width=80, record=True, file=StringIO())
        console.print(table)
        rows = [line for line in console.export_text().splitlines() if line.split()[:1] in (["1"], ["1.67"], ["2"])]
        assert len(rows) == (2 if number else 3), rows  # only the uncertainty is measured inside a stage
        assert not any("\u2026" in row for row in rows), rows


# -- over iterations --------------------------------------------------------------------------------------------------


def test_mean_gain_by_hand() -> None:
    # gains of 2 programs on 2 questions: (1, 0), (1, 1) - (0, 1) = (1, -1), (1, 0)
    gain = mean_gain([[True, False], [True, True]], [False, True])
    assert gain.value == pytest.approx(0.25)
    # means of programs 0, 0.5: variance 0.125; of questions 1, -0.5: variance 1.125; each over 2
    assert gain.se == pytest.approx((0.125 / 2 + 1.125 / 2) ** 0.5)
    assert gain.low is not None
    assert mean_gain([], [True]) == Quantity(None)
    assert mean_gain([[True, False], [True, False]], [True, False]) == Quantity(0.0)  # nothing varies


def gap_of(solver: float, verifier: float, se: float | None = 0.5, temperature: float = 1.0) -> Gap:
    quantities = {"solver_nll": Quantity(solver, se=se), "verifier_nll": Quantity(verifier, se=se)}
    return Gap("v", 10, 10, 20, 10, 10, 4, temperature, quantities, correlation=0.3)


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


def test_points_inside_stages_are_points_of_the_curve() -> None:
    """Times 1, 1.5, 2, 2.5; only iterations have a gain."""
    gaps: dict[float, Gap] = {t: gap_of(30.0 - t, 20.0 - t / 2) for t in (2.5, 1, 2, 1.5)}
    curve = curve_of(gaps, {1: Quantity(0.1, se=0.05), 2: Quantity(0.2, se=0.05)})
    assert curve is not None
    assert (curve.times, curve.solver) == ((1, 1.5, 2, 2.5), (29, 28.5, 28, 27.5))
    assert (curve.score, curve.score_se) == ((0.1, None, 0.2, None), (0.05, None, 0.05, None))
    # one inside without a standard error is left out, and the others keep theirs; an iteration without takes all
    kept = curve_of(gaps | {1.5: gap_of(28.5, 19, None)}, {})
    assert kept is not None
    assert (kept.times, kept.solver_se, kept.score) == ((1, 2, 2.5), (0.5,) * 3, None)
    bare = curve_of(gaps | {2: gap_of(28, 19, None)}, {})
    assert bare is not None
    assert (bare.times, bare.solver_se) == ((1, 1.5, 2, 2.5), None)


def test_uncertainty_alone_is_what_it_is_beside_programs() -> None:
    whole = measure("v", [A, B, C, D], 2, 0.5, resamples=100, seed=3, reference=WRONG, measured=[B, C, D, A, A])
    alone = measure_uncertainty("v", [B, C, D, A, A], 2, 0.5, resamples=100, seed=3)
    assert whole is not None
    assert set(alone.quantities) == set(UNCERTAINTY) == {name for name in WORDS if name in alone.quantities}
    assert len(UNCERTAINTY) == 8
    assert alone.quantities == {name: whole.quantities[name] for name in UNCERTAINTY}
    assert (alone.samples, alone.measured, alone.kept, alone.n) == (0, 5, 4, 2)
    assert measure_uncertainty("v", [A], 2).quantities == dict.fromkeys(UNCERTAINTY, Quantity(None))
    assert from_record("v", alone.record()) == alone


def test_samples_of_several_temperatures_make_no_curve() -> None:
    gaps = {i: gap_of(30.0 - i, 20.0 - i / 2, temperature=1.2 / i) for i in (1, 2, 3)}
    assert curve_of(gaps, {}) is None


def test_nan_never_leaves() -> None:
    for samples in ([A, B, C, D], [D, D], [A, A]):
        gap = measure("v", samples, 2, 0.99, resamples=20, reference=WRONG)
        assert gap is not None
        assert nan not in [q.value for q in gap.quantities.values()]
        assert all(q.value is None or q.value == q.value for q in gap.quantities.values())
