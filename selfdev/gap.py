"""Solver-verifier gap of the generator, measured on the samples of one iteration. Pure; numpy over all resamples.

Two definitions, with a verifier's score for each sample:

- **Uncertainty** (Sun et al., arXiv 2507.00075, section 3), over samples that are drawn for it at one temperature in
  every iteration, so that a curve over iterations shows learning and no schedule; where there are none, over the
  programs. U_s is the mean negative log-likelihood of a sample, summed over its tokens, in nats. U_v is that of the
  sample which the verifier selects out of N: those that it scores below a threshold are dropped, the lowest NLL per
  token of the rest is taken. The gap is U_s - U_v. Where none of N reaches the threshold there is no selection: U_v is
  the mean over the draws with one.
- **Utility** (Song et al., arXiv 2412.02674), over the iteration's programs: J(f) is the mean dev score of those that
  ran, J(f[w]) that of the best by the verifier's score of N that were drawn, the gap their difference, and relative to
  1 - J(f). Dev scores are on the questions that all programs of the iteration answered; a program that repeats an
  earlier one which did not answer these is left out of all of it but the share that ran. Each iteration may ask other
  questions, so what is compared between iterations is the gain over the seed on the same questions.

A program is better than the seed if the exact one-sided sign test on these questions says so (p < 0.05: at least five
right where the seed is wrong, and none the other way). pass@N is over all programs drawn: a failed one is not better.

Expectations over all subsets of N out of M are exact. Samples sorted by a criterion: none of the k best is in a random
subset with probability S(k) = C(M - k, N) / C(M, N), so that a group of equals behind k better ones is selected with
probability S(k) - S(k + its size).

Intervals are the value plus and minus t standard errors. The variance is that of 2,000 bootstrap resamples of the
samples; what is measured on questions has the variance of the questions' means by their number beside it (at most the
residual is counted twice), and what rests on the sign test (share of better programs, AUC, Brier score) that of as many
bootstrap resamples of the questions. The ends for pass@N are those that the share's ends come to. The t quantile has
the degrees of freedom of the few samples that a quantity rests on, less one: Kish's effective number for a selection of
the best of N (of 64, with N = 16, 7), the rarer kind for shares and the AUC; those of a sum of two variances are
Satterthwaite's. Where fewer than two remain, or nothing varies, there is no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, gammaln, stdtrit

from selfdev.dynamics.curves import FEWEST, Curve
from selfdev.gap_records import PROBABILITIES, UNCERTAINTY, WORDS, Gap, Quantity, whole

Array = NDArray[np.float64]

CELLS = 2_000_000  # counts held at once: resamples are taken in parts
CERTAIN = 1e-9  # a mean score this close to 1 leaves nothing to gain
NO_SPREAD = 1e-12  # a standard error below it is rounding
BETTER = 0.05  # of the sign test for better than the seed

_SHARES = (
    "solver_valid", "verifier_valid", "solver_score", "verifier_score", "better", "pass_at_n", "auc", "brier",
)  # fmt: skip
_BOUNDS = dict.fromkeys(_SHARES, (0.0, 1.0)) | {
    "verifier_gain": (-1.0, 1.0),
    "best_at_n": (-1.0, 1.0),
    "score_gap": (-1.0, 1.0),
    "relative_gap": (-np.inf, 1.0),
}


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """One sample of the generator, with a verifier's score."""

    nll: float  # at temperature 1 under the model that wrote it, in nats; at whatever temperature it was drawn
    tokens: int
    judged: float  # the verifier's score in [0, 1], higher is better
    ran: bool = False
    verdicts: Sequence[bool] | None = None  # on the questions that all programs answered; None: failed, or not asked
    result: str | None = None  # names the merged model, the same for equal ones


Statistics = Callable[[Array], dict[str, Array]]
"""How often each sample occurs, (resamples, samples) -> each quantity, (resamples,)."""


def measure(
    verifier: str,
    programs: Sequence[JudgedSample],
    n: int,
    threshold: float = 0.0,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    reference: Sequence[bool] = (),
    measured: Sequence[JudgedSample] | None = None,
    temperature: float | None = None,
) -> Gap | None:
    """The gap of one iteration's samples; None below two programs.

    Args:
        verifier: whose judgements they carry.
        programs: all that were judged.
        n: best-of-N; at most as many as there are.
        threshold: judgements below it are dropped before the selection for U_v.
        resamples: of the bootstrap.
        confidence: of each interval.
        seed: of the bootstrap.
        reference: the seed's verdicts on the questions of `JudgedSample.verdicts`.
        measured: samples of the uncertainty; None: the programs.
        temperature: at which those of the uncertainty were drawn.
    """
    if len(programs) < 2:
        return None
    looked = programs if measured is None else measured
    gap = measure_uncertainty(verifier, looked, n, threshold, resamples, confidence, seed, temperature)
    utility = _utility_quantities(programs, reference, n, threshold, resamples, confidence, seed)
    quantities = {**gap.quantities, **utility}
    told = [name for name in WORDS if name != "brier" or verifier in PROBABILITIES]
    return replace(
        gap,
        samples=len(programs),
        scored=sum(s.verdicts is not None for s in programs),
        questions=len(reference),
        n=min(n, len(programs)),
        quantities={name: quantities.get(name, Quantity(None)) for name in told},
    )


def measure_uncertainty(
    verifier: str,
    samples: Sequence[JudgedSample],
    n: int,
    threshold: float = 0.0,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    temperature: float | None = None,
) -> Gap:
    """U_s, U_v and G of some samples, and nothing of programs: what is measured inside a DPO stage.

    Arguments as in `measure`. Below two samples no quantity is told.
    """
    quantities, correlation = dict[str, Quantity](), 0.0
    if len(samples) > 1:
        values, replicates = _both(_uncertainty(samples, n, threshold), len(samples), resamples, seed)
        errors = {name: _error(column) for name, column in replicates.items()}
        freedom = _uncertainty_freedom(values, errors, len(samples))
        quantities = {name: _quantity(values[name], errors[name], freedom[name], confidence, name) for name in freedom}
        correlation = _correlation(replicates["solver_nll"], replicates["verifier_nll"])
    return Gap(
        verifier=verifier,
        samples=0,
        scored=0,
        questions=0,
        measured=len(samples),
        kept=sum(s.judged >= threshold for s in samples),
        n=min(n, len(samples)),
        temperature=temperature,
        quantities={name: quantities.get(name, Quantity(None)) for name in UNCERTAINTY},
        correlation=correlation,
    )


def _both(statistics: Statistics, samples: int, resamples: int, seed: int) -> tuple[dict[str, float], dict[str, Array]]:
    """The values, and those of the resamples."""
    point = statistics(np.ones((1, samples)))
    return {name: float(value[0]) for name, value in point.items()}, _replicates(statistics, samples, resamples, seed)


# -- uncertainty ------------------------------------------------------------------------------------------------------


def _uncertainty(samples: Sequence[JudgedSample], n: int, threshold: float) -> Statistics:
    nll, tokens, judged = (np.array([getattr(s, name) for s in samples], float) for name in ("nll", "tokens", "judged"))
    per_token = nll / np.maximum(tokens, 1)
    kept = judged >= threshold

    def statistics(counts: Array) -> dict[str, Array]:
        drawn = counts / counts.sum(axis=1, keepdims=True)
        selected = pick_shares(counts, per_token, kept, n)
        found = {"selected": _kish(selected)}
        for name, values in (("nll", nll), ("nll_per_token", per_token), ("tokens", tokens)):
            found[f"solver_{name}"], found[f"verifier_{name}"] = drawn @ values, selected @ values
        found["nll_gap"] = found["solver_nll"] - found["verifier_nll"]
        found["nll_gap_per_token"] = found["solver_nll_per_token"] - found["verifier_nll_per_token"]
        return found

    return statistics


def _uncertainty_freedom(
    values: Mapping[str, float], errors: Mapping[str, float | None], samples: int
) -> dict[str, float]:
    """Degrees of freedom of each quantity."""
    few = values["selected"] - 1
    found = dict.fromkeys(("solver_nll", "solver_nll_per_token", "solver_tokens"), samples - 1.0)
    found |= dict.fromkeys(("verifier_nll", "verifier_nll_per_token", "verifier_tokens"), few)
    for gap, part in (("nll_gap", "nll"), ("nll_gap_per_token", "nll_per_token")):
        first, second = errors[f"solver_{part}"] or 0.0, errors[f"verifier_{part}"] or 0.0
        found[gap] = satterthwaite(first, samples - 1, second, few)
    return found


# -- utility ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Programs:
    """An iteration's programs as arrays: (programs,), and (programs, questions)."""

    per_token: Array
    judged: Array
    ran: Array
    scored: NDArray[np.bool_]
    comparable: Array  # failed, or ran and answered these questions
    verdicts: Array  # rows of 0 where there are none
    score: Array
    gain: Array
    better: Array


def _arrays(samples: Sequence[JudgedSample], reference: Sequence[bool]) -> _Programs:
    nll, tokens, judged = (np.array([getattr(s, name) for s in samples], float) for name in ("nll", "tokens", "judged"))
    scored = np.array([s.verdicts is not None for s in samples])
    verdicts = np.array([s.verdicts if s.verdicts is not None else [False] * len(reference) for s in samples], float)
    seed = np.asarray(reference, float)
    ran = np.array([s.ran for s in samples], float)
    questions = max(1, len(reference))
    return _Programs(
        per_token=nll / np.maximum(tokens, 1),
        judged=judged,
        ran=ran,
        scored=scored,
        comparable=np.maximum(1 - ran, scored),
        verdicts=verdicts,
        score=verdicts.sum(axis=1) / questions,
        gain=np.where(scored, (verdicts - seed).sum(axis=1) / questions, 0.0),
        better=is_better(verdicts, seed) & scored,
    )


def is_better(verdicts: Array, reference: Array) -> NDArray[np.bool_]:
    """Which programs the one-sided sign test (exact McNemar) calls better; (programs, questions), (questions,)."""
    return is_better_by((verdicts > reference).sum(axis=1), (verdicts < reference).sum(axis=1))


def is_better_by(wins: NDArray[np.intp], losses: NDArray[np.intp]) -> NDArray[np.bool_]:
    """The same by the numbers of questions that only the program, or only the seed, has right."""
    return np.asarray(bdtrc(wins - 1, wins + losses, 0.5) < BETTER)


def _utility(p: _Programs, n: int, threshold: float) -> Statistics:
    better = p.better.astype(float)

    def statistics(counts: Array) -> dict[str, Array]:
        drawn, total, scored = counts.sum(axis=1), counts @ p.comparable, counts @ p.scored
        (valid,) = pick_means(counts, drawn, p.per_token, p.judged >= threshold, n, p.ran)
        verifier, gain = pick_means(counts, total, -p.judged, p.scored, n, p.score, p.gain)
        (best,) = pick_means(counts, total, -p.gain, p.scored, n, p.gain)
        solver, number = _divided(counts @ (p.scored * p.score), scored), counts @ better
        left = 1 - solver
        none_better = _none_drawn(number[:, None], total, n)[:, 0]
        return {
            "solver_valid": counts @ p.ran / drawn,
            "verifier_valid": valid,
            "solver_score": solver,
            "verifier_score": verifier,
            "verifier_gain": gain,
            "score_gap": verifier - solver,
            "relative_gap": np.where(left > CERTAIN, _divided(verifier - solver, left), np.nan),
            "better": _divided(number, total),
            "pass_at_n": np.where(total > 0, 1 - none_better, np.nan),
            "best_at_n": best,
            "auc": _auc(counts, p.judged, better, p.scored),
            "brier": _divided(counts @ (p.scored * (p.judged - better) ** 2), scored),
        }

    return statistics


def _utility_shares(p: _Programs, counts: Array, n: int) -> tuple[Array, Array, Array]:
    """Chance of each program to be drawn, the verifier's best of N, and the best of N; of those with a score."""
    pool = counts * p.comparable
    scored = counts * p.scored
    share = _divided(scored, scored.sum(axis=1, keepdims=True))
    return share, pick_shares(pool, -p.judged, p.scored, n), pick_shares(pool, -p.gain, p.scored, n)


def _utility_quantities(
    programs: Sequence[JudgedSample], reference: Sequence[bool], n: int, threshold: float, resamples: int,
    confidence: float, seed: int,
) -> dict[str, Quantity]:  # fmt: skip
    p = _arrays(programs, reference)
    values, replicates = _both(_utility(p, n, threshold), len(programs), resamples, seed)
    share, ranked, best = (weights[0] for weights in _utility_shares(p, np.ones((1, len(programs))), n))
    selected = pick_shares(np.ones((1, len(programs))), p.per_token, p.judged >= threshold, n)
    errors = {name: _error(column) for name, column in replicates.items()}
    scored, good = float(p.scored.sum()), float(p.better.sum())
    few = {"verifier": float(_kish(ranked[None])[0]) - 1, "best": float(_kish(best[None])[0]) - 1}
    freedom = {
        "solver_valid": min(p.ran.sum(), len(programs) - p.ran.sum()) - 1,
        "verifier_valid": float(_kish(selected)[0]) - 1,
        "solver_score": scored - 1,
        "verifier_score": few["verifier"],
        "verifier_gain": few["verifier"],
        "best_at_n": few["best"],
        "better": min(good, p.comparable.sum() - good) - 1,
        "pass_at_n": min(good, p.comparable.sum() - good) - 1,
        "auc": min(good, scored - good) - 1,
        "brier": scored - 1,
    }
    freedom["score_gap"] = freedom["relative_gap"] = satterthwaite(
        errors["solver_score"] or 0.0, scored - 1, errors["verifier_score"] or 0.0, few["verifier"]
    )
    seeds = np.asarray(reference, float)
    between = {
        "solver_score": _question_error(share, p.verdicts),
        "verifier_score": _question_error(ranked, p.verdicts),
        "verifier_gain": _question_error(ranked, p.verdicts - seeds),
        "best_at_n": _question_error(best, p.verdicts - seeds),
        "score_gap": _question_error(ranked - share, p.verdicts),
    }
    between["relative_gap"] = between["score_gap"] / max(CERTAIN, 1 - values["solver_score"])
    for name, other in _question_errors(p, seeds, n, resamples, seed).items():
        between[name] = other or 0.0
        errors[name] = None if other is None else errors[name]
    found = {}
    for name, value in values.items():
        error, degrees = errors[name], freedom[name]
        if error is not None and name in ("solver_score", "brier") and scored > 1:
            error *= float(np.sqrt(scored / (scored - 1)))  # the bootstrap's variance of a mean of few is too small
        if error is not None and name in between and np.isfinite(between[name]):
            degrees = satterthwaite(error, degrees, between[name], len(reference) - 1) if degrees >= 1 else degrees
            error = float(np.hypot(error, between[name]))
        found[name] = _quantity(value, error, degrees, confidence, name)
    found["pass_at_n"] = _passing(found["pass_at_n"], found["better"], int(p.comparable.sum()), n)
    found["diversity"] = Quantity(distinct_share([s.result for s in programs if s.ran]))
    return found


def _passing(passed: Quantity, better: Quantity, total: int, n: int) -> Quantity:
    """pass@N with the ends that those of the share of better ones come to: it grows with that share, far from linearly.

    Args:
        passed: pass@N.
        better: the share of better programs.
        total: how many programs the share is of.
        n: best-of-N.
    """
    if passed.value is None or better.low is None or better.high is None:
        return passed
    left = total * (1 - np.array([better.low, better.high]))  # that are not better, of `total`
    size = min(n, total)
    ways = gammaln(left + 1) - gammaln(np.maximum(left - size, 0) + 1)
    none = np.exp(np.minimum(ways - gammaln(total + 1) + gammaln(total - size + 1), 0.0))
    low, high = (1 - np.where(left >= size, none, 0.0)).tolist()
    return Quantity(passed.value, min(low, passed.value), max(high, passed.value), passed.se)


def _question_errors(p: _Programs, seed: Array, n: int, resamples: int, stream: int) -> dict[str, float | None]:
    """Standard errors over questions of what rests on the sign test: on other questions it calls other programs better.

    Args:
        p: the programs.
        seed: the seed's verdicts, (questions,).
        n: best-of-N.
        resamples: of the questions, by the bootstrap.
        stream: of their random draws.
    """
    questions, names = len(seed), ("better", "pass_at_n", "auc", "brier")
    if questions < 2:
        return dict.fromkeys(names)
    wins, losses = (p.verdicts > seed).astype(float), (p.verdicts < seed).astype(float)  # (programs, questions)
    told = is_better_by(np.arange(questions + 1)[:, None], np.arange(questions + 1))  # by numbers of wins and losses
    comparable, scored = p.comparable[None], p.scored[None].astype(float)
    total, share = comparable.sum(), (scored / max(1.0, scored.sum()))[0]

    def statistics(counts: Array) -> dict[str, Array]:
        won, lost = (np.rint(counts @ kind.T).astype(np.intp) for kind in (wins, losses))
        better = (told[won, lost] & p.scored).astype(float)  # (resamples, programs)
        number = better @ p.comparable
        return {
            "better": _divided(number, np.full_like(number, total)),
            "pass_at_n": 1 - _none_drawn(number[:, None], np.full(len(number), total), n)[:, 0],
            "auc": _auc(scored, p.judged, better, p.scored),
            "brier": (p.judged - better) ** 2 @ share,
        }

    replicates = _replicates(statistics, questions, resamples, stream, columns=len(p.scored))
    return {name: _error(replicates[name]) for name in names}


def _question_error(weights: Array, values: Array) -> float:
    """Standard error of a weighted mean over programs from its spread over questions; NaN below two questions."""
    by_question = weights @ values
    return float(by_question.std(ddof=1) / np.sqrt(len(by_question))) if len(by_question) > 1 else float("nan")


def _kish(shares: Array) -> Array:
    """Kish's effective number of samples of each row of shares."""
    return np.asarray(1 / (shares**2).sum(axis=1))


def pick_shares(counts: Array, criterion: Array, eligible: NDArray[np.bool_], n: int) -> Array:
    """Chance of each sample to be what the lowest criterion selects out of a random n, given that one is eligible.

    Args:
        counts: how often each sample occurs, (resamples, samples); subsets are of all of them.
        criterion: (samples,); equals share their chance.
        eligible: (samples,); others may be in the subset and are not selected.
        n: size of the subset; all samples where there are fewer.

    Returns:
        (resamples, samples), each row sums to 1; a row of NaN where nothing eligible occurs.
    """
    shares = np.full(counts.shape, np.nan)
    order = _best_first(criterion, eligible)
    if not len(order):
        return shares
    starts = _starts(criterion[order])
    sorted_counts = counts[:, order]
    groups = _grouped(sorted_counts, starts)
    none = _none_drawn(np.cumsum(groups, axis=1), counts.sum(axis=1), n)  # of this group and all before it
    chance = np.empty_like(none)
    chance[:, 0] = 1 - none[:, 0]
    np.subtract(none[:, :-1], none[:, 1:], out=chance[:, 1:])
    any_drawn = 1 - none[:, -1]
    if len(starts) < len(order):  # equals share the chance of their group
        sizes = np.diff(np.append(starts, len(order)))
        chance = np.repeat(np.nan_to_num(_divided(chance, groups)), sizes, axis=1) * sorted_counts
    shares[any_drawn > 0] = 0.0
    shares[:, order] = _divided(chance, any_drawn[:, None])
    return shares


def pick_means(
    counts: Array, total: Array, criterion: Array, eligible: NDArray[np.bool_], n: int, *values: Array
) -> list[Array]:
    """Means of some values of what `pick_shares` selects, without the shares: a fraction of the time for many samples.

    Args:
        counts: how often each sample occurs, (resamples, samples).
        total: how many samples the subsets are of, (resamples,): more than the eligible ones, or as many.
        criterion: as in `pick_shares`.
        eligible: as in `pick_shares`.
        n: as in `pick_shares`.
        values: (samples,) each.

    Returns:
        (resamples,) each; NaN where nothing eligible occurs.
    """
    order = _best_first(criterion, eligible)
    if not len(order):
        return [np.full(len(counts), np.nan) for _ in values]
    starts, sorted_counts = _starts(criterion[order]), counts[:, order]
    groups = _grouped(sorted_counts, starts)
    none = _none_drawn(np.cumsum(groups, axis=1), total, n)  # S_i: of this group and all before it
    means = []
    for value in values:
        sorted_values = value[order]
        if len(starts) == len(order):  # sum of (S_(i-1) - S_i) v_i, by parts
            found = sorted_values[0] + none[:, :-1] @ np.diff(sorted_values) - none[:, -1] * sorted_values[-1]
        else:
            inside = np.nan_to_num(_divided(_grouped(sorted_counts * sorted_values, starts), groups))
            found = ((np.hstack([np.ones((len(none), 1)), none[:, :-1]]) - none) * inside).sum(axis=1)
        means.append(_divided(found, 1 - none[:, -1]))
    return means


def _best_first(criterion: Array, eligible: NDArray[np.bool_]) -> NDArray[np.intp]:
    places = np.flatnonzero(eligible)
    return places[np.argsort(criterion[places], kind="stable")]


def _starts(values: Array) -> NDArray[np.intp]:
    """Where a group of equals begins in sorted values."""
    return np.flatnonzero(np.diff(values, prepend=-np.inf) > 0)


def _grouped(counts: Array, starts: NDArray[np.intp]) -> Array:
    """(resamples, samples) summed over groups of neighbours, (resamples, groups)."""
    return counts if len(starts) == counts.shape[1] else np.add.reduceat(counts, starts, axis=1)


def _none_drawn(k: Array, total: Array, n: int) -> Array:
    """C(total - k, n) / C(total, n): none of k is in a random n of `total`; n is at most `total`. k: (rows, any)."""
    whole, taken = np.rint(total).astype(np.intp), k.astype(np.intp)
    if len(whole) and np.all(whole == whole[0]):  # one table for all
        ways = _log_ways(int(whole[0]), min(n, int(whole[0])))
        return np.asarray(np.exp(ways[::-1] - ways[-1])[taken])
    chance = np.zeros(k.shape)
    for size in np.unique(np.minimum(n, whole)):
        rows = np.minimum(n, whole) == size
        ways = _log_ways(int(whole[rows].max()), int(size))
        chance[rows] = np.exp(ways[whole[rows, None] - taken[rows]] - ways[whole[rows], None])
    return chance


def _log_ways(most: int, size: int) -> Array:
    """log(r! / (r - size)!) for r = 0 ... `most`; minus infinity where r is below `size`."""
    log_factorial = gammaln(np.arange(most + 1) + 1.0)
    ways = np.full(most + 1, -np.inf)
    ways[size:] = log_factorial[size:] - log_factorial[: most + 1 - size]
    return ways


def _auc(counts: Array, judged: Array, better: Array, among: NDArray[np.bool_]) -> Array:
    """Chance that a better sample is judged higher than another, ties count half (Mann-Whitney); NaN without both.

    Args:
        counts: (resamples, samples), or one row for all.
        judged: (samples,).
        better: 0 or 1, (samples,) or (resamples, samples).
        among: the samples that count, (samples,).
    """
    order = _best_first(judged, among)
    if not len(order):
        return np.full(max(len(counts), len(np.atleast_2d(better))), np.nan)
    starts, occurring = _starts(judged[order]), counts[:, order]
    good, bad = (_grouped(occurring * mark[..., order], starts) for mark in (better, 1 - better))
    below = np.cumsum(bad, axis=1) - bad
    return _divided((good * (below + bad / 2)).sum(axis=1), good.sum(axis=1) * bad.sum(axis=1))


def _divided(top: Array, bottom: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(bottom > 0, top / bottom, np.nan))


def distinct_share(results: Sequence[str | None]) -> float | None:
    """Chance that two different samples come to different results (Gini-Simpson, unbiased); None below two."""
    total = len(results)
    if total < 2:
        return None
    named = [result for result in results if result is not None]
    same = sum(count * (count - 1) for count in map(named.count, set(named)))
    return 1 - same / (total * (total - 1))


# -- intervals --------------------------------------------------------------------------------------------------------


def _replicates(
    statistics: Callable[[Array], dict[str, Array]], samples: int, resamples: int, seed: int, columns: int = 0
) -> dict[str, Array]:
    """The statistics of bootstrap resamples; `columns` is the width of what they hold, where that exceeds `samples`."""
    rng = np.random.default_rng(seed)
    parts = []
    step = max(1, CELLS // max(samples, columns))
    for start in range(0, resamples, step):
        counts = rng.multinomial(samples, np.full(samples, 1 / samples), size=min(step, resamples - start))
        parts.append(statistics(counts.astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _error(replicates: Array) -> float | None:
    """Standard error; None where it is not told or nothing varies in more than half of the resamples."""
    finite = replicates[np.isfinite(replicates)]
    return float(finite.std(ddof=1)) if len(finite) > max(1, len(replicates) / 2) else None


def satterthwaite(first: float, first_freedom: float, second: float, second_freedom: float) -> float:
    """Degrees of freedom of a sum of two variances, given as standard errors (Satterthwaite 1946)."""
    if (not first and not second) or not second_freedom > 0 or not first_freedom > 0:
        return min(first_freedom, second_freedom)
    return float((first**2 + second**2) ** 2 / (first**4 / first_freedom + second**4 / second_freedom))


def _quantity(value: float, error: float | None, freedom: float, confidence: float, name: str) -> Quantity:
    if not np.isfinite(value):
        return Quantity(None)
    if error is None or error < NO_SPREAD or not freedom >= 1:
        return Quantity(value)
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    low, high = _BOUNDS.get(name, (-np.inf, np.inf))
    return Quantity(value, max(low, value - reach), min(high, value + reach), error)


def _correlation(first: Array, second: Array) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 2 or first[both].std() == 0 or second[both].std() == 0:
        return 0.0
    return float(np.clip(np.corrcoef(first[both], second[both])[0, 1], -0.99, 0.99))


# -- over time --------------------------------------------------------------------------------------------------------


def mean_gain(rows: Sequence[Sequence[bool]], seed: Sequence[bool], confidence: float = 0.95) -> Quantity:
    """Mean gain over the seed of programs that all answered the same questions, with a two-way standard error.

    Both programs and questions are samples: the variance is that of the programs' means plus that of the questions'
    means, each by its number (at most the residual is counted twice).

    Args:
        rows: (programs, questions) verdicts.
        seed: the seed's verdicts on the same questions.
        confidence: of the interval.
    """
    if not rows or not seed:
        return Quantity(None)
    gains = np.asarray(rows, float) - np.asarray(seed, float)
    value = float(gains.mean())
    if min(gains.shape) < 2:
        return Quantity(value)
    first, second = (float(gains.mean(axis=i).std(ddof=1) / gains.shape[1 - i] ** 0.5) for i in (1, 0))
    freedom = satterthwaite(first, len(rows) - 1, second, len(seed) - 1)
    return _quantity(value, float(np.hypot(first, second)), freedom, confidence, "verifier_gain")


def curve_of(gaps: Mapping[float, Gap], gains: Mapping[int, Quantity]) -> Curve | None:
    """U_s and U_v of one verifier over time, with the gain over the seed, at the iterations, as the score from outside.

    None below three points with both, and where their samples were drawn at several temperatures: a colder sample has
    a lower NLL without any learning. Standard errors only where all iterations have them; a point inside a DPO stage
    that alone has none is left out.
    """
    times = [time for time, gap in sorted(gaps.items()) if has_curve_point(gap)]
    iterations = whole(times)
    if iterations and all(has_errors(gaps[i]) for i in iterations):
        times = [time for time in times if has_errors(gaps[time])]
    if len(times) < FEWEST or len({gaps[i].temperature for i in times}) > 1:
        return None
    solver, verifier = ([gaps[i].quantities[name] for i in times] for name in ("solver_nll", "verifier_nll"))
    known = all(has_errors(gaps[i]) for i in times)
    told = {i: gains.get(i, Quantity(None)) for i in iterations}
    scored = bool(told) and all(q.value is not None for q in told.values())
    scores = [told.get(int(time), Quantity(None)) if time == int(time) else Quantity(None) for time in times]
    return Curve(
        times=tuple(map(float, times)),
        solver=tuple(q.value or 0.0 for q in solver),
        verifier=tuple(q.value or 0.0 for q in verifier),
        solver_se=tuple(q.se or 0.0 for q in solver) if known else None,
        verifier_se=tuple(q.se or 0.0 for q in verifier) if known else None,
        correlation=float(np.mean([gaps[i].correlation for i in times])) if known else 0.0,
        score=tuple(q.value for q in scores) if scored else None,
        score_se=tuple(q.se for q in scores) if scored and all(q.se for q in told.values()) else None,
        name=gaps[times[0]].verifier,
    )


def has_errors(gap: Gap) -> bool:
    """Whether both U_s and U_v have standard errors."""
    return all(gap.quantities[name].se for name in ("solver_nll", "verifier_nll"))


def has_curve_point(gap: Gap) -> bool:
    """Whether both U_s and U_v are told."""
    return None not in (gap.quantities["solver_nll"].value, gap.quantities["verifier_nll"].value)
