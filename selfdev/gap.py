"""Solver-verifier gap of the generator, measured on the samples of one iteration. Pure; numpy over all resamples.

Two definitions, on one set of M samples with a verifier's score each:

- **Uncertainty** (Sun et al., arXiv 2507.00075, section 3), over all samples drawn. U_s is the mean negative
  log-likelihood of a sample, summed over its tokens, in nats. U_v is that of the sample which the verifier selects out
  of N: those that it scores below a threshold are dropped, the lowest NLL per token of the rest is taken. The gap is
  U_s - U_v. Where none of N reaches the threshold there is no selection: U_v is the mean over the draws with one.
- **Utility** (Song et al., arXiv 2412.02674), over the samples with a dev score: J(f) is the mean dev score, J(f[w])
  that of the best of N by the verifier's score, the gap their difference, and relative to 1 - J(f). A program that
  failed has no dev score; how often the verifier's selection under the first definition has one is measured instead.

Expectations over all subsets of N out of M are exact. Samples sorted by a criterion: none of the k best is in a random
subset with probability S(k) = C(M - k, N) / C(M, N), so that a group of equals behind k better ones is selected with
probability S(k) - S(k + its size).

Intervals are bootstrap ones over samples: the value plus and minus t standard errors of 2,000 resamples. A selection of
the best of N rests on few samples (of 64, with N = 16, on 7), so the t quantile has the degrees of freedom of those
few, Kish's effective number less one; a difference has Satterthwaite's. Where fewer than two remain there is no
interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, stdtrit

from selfdev.dynamics.curves import FEWEST, Curve
from selfdev.gap_records import WORDS, Gap, Quantity

Array = NDArray[np.float64]

CELLS = 2_000_000  # counts held at once: resamples are taken in parts
CERTAIN = 1e-9  # a mean score this close to 1 leaves nothing to gain

_SHARES = (
    "solver_valid", "verifier_valid", "solver_score", "verifier_score", "better", "pass_at_n", "best_at_n", "auc",
    "brier",
)  # fmt: skip
_BOUNDS = dict.fromkeys(_SHARES, (0.0, 1.0)) | {
    "brier": (0.0, 1.0),
    "score_gap": (-1.0, 1.0),
    "relative_gap": (-np.inf, 1.0),
}


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """One sample of the generator, with a verifier's score."""

    nll: float  # at temperature 1 under the model that wrote it, in nats; at whatever temperature it was drawn
    tokens: int
    judged: float  # the verifier's score in [0, 1], higher is better
    score: float | None  # dev score in [0, 1]; None: the program failed
    better: bool | None  # than the seed on the same questions; None without a dev score
    result: str | None = None  # names the merged model, the same for equal ones


def measure(
    verifier: str,
    samples: Sequence[JudgedSample],
    n: int,
    threshold: float = 0.0,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Gap | None:
    """The gap of one iteration's samples; None below two samples.

    Args:
        verifier: whose judgements they carry.
        samples: all that were judged.
        n: best-of-N; at most as many as there are.
        threshold: judgements below it are dropped before the selection for U_v.
        resamples: of the bootstrap.
        confidence: of each interval.
        seed: of the bootstrap.
    """
    if len(samples) < 2:
        return None
    statistics = _statistics(samples, n, threshold)
    point = statistics(np.ones((1, len(samples))))
    replicates = _replicates(statistics, len(samples), resamples, seed)
    values = {name: float(value[0]) for name, value in point.items()}
    errors = {name: _error(column) for name, column in replicates.items()}
    freedom = _freedom(values, errors, len(samples))
    quantities = {
        name: _quantity(values[name], errors[name], freedom.get(name, len(samples) - 1), confidence, name)
        for name in WORDS
        if name in values
    }
    quantities["diversity"] = Quantity(distinct_share([s.result for s in samples if s.score is not None]))
    return Gap(
        verifier=verifier,
        samples=len(samples),
        scored=sum(s.score is not None for s in samples),
        kept=sum(s.judged >= threshold for s in samples),
        n=min(n, len(samples)),
        quantities=quantities,
        correlation=_correlation(replicates["solver_nll"], replicates["verifier_nll"]),
    )


def _statistics(samples: Sequence[JudgedSample], n: int, threshold: float) -> Callable[[Array], dict[str, Array]]:
    """All quantities as a function of how often each sample occurs, (resamples, samples) -> (resamples,) each."""
    nll, tokens, judged = (np.array([getattr(s, name) for s in samples], float) for name in ("nll", "tokens", "judged"))
    per_token = nll / np.maximum(tokens, 1)
    valid = np.array([s.score is not None for s in samples])
    score = np.array([s.score or 0.0 for s in samples])
    better = np.array([bool(s.better) for s in samples], float)
    kept = judged >= threshold

    def statistics(counts: Array) -> dict[str, Array]:
        drawn = counts / counts.sum(axis=1, keepdims=True)
        selected = pick_shares(counts, per_token, kept, n)
        found = {}
        for name, values in (("nll", nll), ("nll_per_token", per_token), ("tokens", tokens), ("valid", valid * 1.0)):
            found[f"solver_{name}"], found[f"verifier_{name}"] = drawn @ values, selected @ values
        found["nll_gap"] = found["solver_nll"] - found["verifier_nll"]
        found["nll_gap_per_token"] = found["solver_nll_per_token"] - found["verifier_nll_per_token"]
        scored = counts * valid
        total = scored.sum(axis=1)
        share = _divided(scored, total[:, None])
        ranked, best = pick_shares(scored, -judged, valid, n), pick_shares(scored, -score, valid, n)
        found["solver_score"] = share @ score
        found["verifier_score"] = ranked @ score
        found["score_gap"] = found["verifier_score"] - found["solver_score"]
        left = 1 - found["solver_score"]
        found["relative_gap"] = np.where(left > CERTAIN, _divided(found["score_gap"], left), np.nan)
        found["better"] = share @ better
        none_better = _none_drawn((scored @ better)[:, None], total, n)[:, 0]
        found["pass_at_n"] = np.where(total > 0, 1 - none_better, np.nan)
        found["best_at_n"] = best @ score
        found["auc"] = _auc(scored, judged, better)
        found["brier"] = share @ (judged - better) ** 2
        for name, shares in (("selected", selected), ("ranked", ranked), ("best", best)):
            found[name] = 1 / (shares**2).sum(axis=1)  # Kish's effective number of samples
        return found

    return statistics


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
    places = np.flatnonzero(eligible)
    if not len(places):
        return shares
    order = places[np.argsort(criterion[places], kind="stable")]
    starts = np.flatnonzero(np.diff(criterion[order], prepend=-np.inf) > 0)
    sizes = np.diff(np.append(starts, len(order)))
    sorted_counts = counts[:, order]
    groups = np.add.reduceat(sorted_counts, starts, axis=1)  # (resamples, groups of equals)
    behind = np.cumsum(groups, axis=1)
    total = counts.sum(axis=1)
    chance = _none_drawn(behind - groups, total, n) - _none_drawn(behind, total, n)
    chance = _divided(chance, chance.sum(axis=1, keepdims=True))
    shares[:] = np.where(np.isnan(chance[:, :1]), np.nan, 0.0)
    shares[:, order] = np.repeat(np.nan_to_num(_divided(chance, groups)), sizes, axis=1) * sorted_counts
    shares[np.isnan(chance[:, 0])] = np.nan
    return shares


def _none_drawn(k: Array, total: Array, n: int) -> Array:
    """C(total - k, n) / C(total, n): none of k is in a random n of `total`; n is at most `total`. k: (rows, any)."""
    whole = np.rint(total).astype(np.int64)[:, None]
    size = np.minimum(n, whole)
    rest = whole - np.rint(k).astype(np.int64)
    log_factorial = gammaln(np.arange(int(whole.max(initial=0)) + 1) + 1.0)
    possible = rest >= size
    low = np.maximum(rest - size, 0)
    log = log_factorial[np.maximum(rest, 0)] - log_factorial[low] - log_factorial[whole] + log_factorial[whole - size]
    return np.where(possible, np.exp(np.minimum(log, 0.0)), 0.0)


def _auc(counts: Array, judged: Array, better: Array) -> Array:
    """Chance that a better sample is judged higher than another, ties count half (Mann-Whitney); NaN without both."""
    order = np.argsort(judged, kind="stable")
    starts = np.flatnonzero(np.diff(judged[order], prepend=-np.inf) > 0)
    good, bad = (np.add.reduceat(counts[:, order] * mark[order], starts, axis=1) for mark in (better, 1 - better))
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
    statistics: Callable[[Array], dict[str, Array]], samples: int, resamples: int, seed: int
) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    parts = []
    step = max(1, CELLS // samples)
    for start in range(0, resamples, step):
        counts = rng.multinomial(samples, np.full(samples, 1 / samples), size=min(step, resamples - start))
        parts.append(statistics(counts.astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _error(replicates: Array) -> float | None:
    """Standard error; None where it is not told or nothing varies in more than half of the resamples."""
    finite = replicates[np.isfinite(replicates)]
    return float(finite.std(ddof=1)) if len(finite) > max(1, len(replicates) / 2) else None


def _freedom(values: Mapping[str, float], errors: Mapping[str, float | None], samples: int) -> dict[str, float]:
    """Degrees of freedom of what rests on a selection."""
    few = {name: values[name] - 1 for name in ("selected", "ranked", "best")}
    found = dict.fromkeys(
        ("verifier_nll", "verifier_nll_per_token", "verifier_tokens", "verifier_valid"), few["selected"]
    )
    found |= {"verifier_score": few["ranked"], "best_at_n": few["best"], "pass_at_n": few["best"]}
    for gap, part in (("nll_gap", "nll"), ("nll_gap_per_token", "nll_per_token"), ("score_gap", "score")):
        first, second = errors[f"solver_{part}"], errors[f"verifier_{part}"]
        found[gap] = _satterthwaite(first or 0.0, samples - 1, second or 0.0, found[f"verifier_{part}"])
    found["relative_gap"] = found["score_gap"]
    return found


def _satterthwaite(first: float, first_freedom: float, second: float, second_freedom: float) -> float:
    """Degrees of freedom of a difference of two estimates with these standard errors (Satterthwaite 1946)."""
    if (not first and not second) or not second_freedom > 0:
        return second_freedom
    return float((first**2 + second**2) ** 2 / (first**4 / first_freedom + second**4 / second_freedom))


def _quantity(value: float, error: float | None, freedom: float, confidence: float, name: str) -> Quantity:
    if not np.isfinite(value):
        return Quantity(None)
    if error is None or not freedom >= 1:
        return Quantity(value)
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    low, high = _BOUNDS.get(name, (-np.inf, np.inf))
    return Quantity(value, max(low, value - reach), min(high, value + reach), error)


def _correlation(first: Array, second: Array) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 2 or first[both].std() == 0 or second[both].std() == 0:
        return 0.0
    return float(np.clip(np.corrcoef(first[both], second[both])[0, 1], -0.99, 0.99))


# -- over iterations --------------------------------------------------------------------------------------------------


def mean_gain(rows: Sequence[Sequence[bool]], seed: Sequence[bool]) -> Quantity:
    """Mean gain over the seed of programs that all answered the same questions, with a two-way standard error.

    Both programs and questions are samples: the variance is that of the programs' means plus that of the questions'
    means, each by its number (at most the residual is counted twice).

    Args:
        rows: (programs, questions) verdicts.
        seed: the seed's verdicts on the same questions.
    """
    if not rows or not seed:
        return Quantity(None)
    gains = np.asarray(rows, float) - np.asarray(seed, float)
    value = float(gains.mean())
    if min(gains.shape) < 2:
        return Quantity(value)
    by_program, by_question = gains.mean(axis=1), gains.mean(axis=0)
    variance = by_program.var(ddof=1) / len(by_program) + by_question.var(ddof=1) / len(by_question)
    return Quantity(value, se=float(np.sqrt(variance)))


def curve_of(gaps: Mapping[int, Gap], gains: Mapping[int, Quantity]) -> Curve | None:
    """U_s and U_v of one verifier over iterations, with the gain over the seed as the score from outside.

    None below three iterations with both. Standard errors only where all iterations have them.
    """
    times = [
        i for i, gap in sorted(gaps.items()) if None not in (_value(gap, "solver_nll"), _value(gap, "verifier_nll"))
    ]
    if len(times) < FEWEST:
        return None
    solver, verifier = ([gaps[i].quantities[name] for i in times] for name in ("solver_nll", "verifier_nll"))
    known = all(q.se for q in (*solver, *verifier))
    scores = [gains.get(i, Quantity(None)) for i in times]
    scored = all(q.value is not None for q in scores)
    return Curve(
        times=tuple(map(float, times)),
        solver=tuple(q.value or 0.0 for q in solver),
        verifier=tuple(q.value or 0.0 for q in verifier),
        solver_se=tuple(q.se or 0.0 for q in solver) if known else None,
        verifier_se=tuple(q.se or 0.0 for q in verifier) if known else None,
        correlation=float(np.mean([gaps[i].correlation for i in times])) if known else 0.0,
        score=tuple(q.value or 0.0 for q in scores) if scored else None,
        score_se=tuple(q.se or 0.0 for q in scores) if scored and all(q.se for q in scores) else None,
        name=gaps[times[0]].verifier,
    )


def _value(gap: Gap, name: str) -> float | None:
    return gap.quantities[name].value
