"""Scored programs -> preference pairs. Pure.

Paper (arXiv 2410.15639, section 3.2): chosen = top 3 % by dev score, rejected = bottom 10 %, and the top 3 of every
earlier iteration join the chosen side. The paper does not say how pairs are formed; here every chosen program meets
every rejected one whose score is strictly lower. Programs whose merged task vector repeats an earlier one are left out
(their pair would teach nothing about the score). Ties are broken by the order of drawing, so the result depends on
nothing but the rows.

Scores are measured, so some pairs stand the wrong way round. The rule "confident" keeps only pairs whose two programs
are separated by the questions that both answered (an e-value, so that a race may have stopped either of them at any
time); `inverted_share` estimates how many of a set of pairs are wrong; `max_appearances` keeps one program from
dominating.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log, sqrt
from statistics import NormalDist, fmean

from selfdev.config import PairConfig
from selfdev.shrink import between_variance
from selfdev.stats import AnswerRow, discordant, log_e_better
from selfdev.types import ExecutionStatus, PreferencePair, ScoredCandidate


def by_score(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """Originals of one iteration that were scored or raced, best first; equals keep the order of drawing.

    After a race: who came how far in it, best first.
    """
    placed = [c for c in candidates if c.rank_gain is not None and c.duplicate_of is None and c.status.has_result]
    return sorted(placed, key=_order)


def _order(c: ScoredCandidate) -> tuple[int, float, int, int]:
    return 0 if c.standing is None else c.standing.place, -(c.rank_gain or 0.0), c.iteration, c.index


def by_gain(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """Scored originals that may win, of any iterations, by their gain over the seed."""
    scored = [c for c in candidates if c.gain is not None and c.duplicate_of is None and c.refused is None]
    return sorted(scored, key=lambda c: (-(c.gain or 0.0), c.iteration, c.index))


def in_finals(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """Originals that may win, of any iterations, by their score on the questions that they share with the baselines."""
    met = [c for c in candidates if c.final_score is not None and c.duplicate_of is None and c.refused is None]
    return sorted(met, key=lambda c: (-(c.final_score or 0.0), c.iteration, c.index))


def overall(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """A run's ranking: those of the finals first, by their score there, then the others by their gain over the seed."""
    met = in_finals(candidates)
    ids = {c.id for c in met}
    return met + [c for c in by_gain(candidates) if c.id not in ids]


def ranked(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """`by_score` without the refused: who may win, and be the chosen side of a pair."""
    return [c for c in by_score(candidates) if c.refused is None]


def share_count(count: int, share: float) -> int:
    """How many of `count` a share is: rounded to nearest (halves up), at least one, at most all."""
    return min(count, max(1, int(count * share + 0.5)))


def pair(
    prompt: str,
    current: Sequence[ScoredCandidate],
    earlier: Sequence[ScoredCandidate],
    rule: PairConfig,
    answers: Mapping[str, AnswerRow] | None = None,
) -> list[PreferencePair]:
    """The preference pairs of one iteration.

    Args:
        prompt: the fixed generator prompt.
        current: all candidates of this iteration, failed ones included.
        earlier: all candidates of the iterations before it.
        rule: shares, elites, what failures may do. With `rule.rule` "confident", a pair needs `rule.min_evidence`: the
            least e-value for "chosen is better than rejected" over the questions that both were asked (20: a wrong
            claim about one pair at most once in 20). A program that failed needs none: that it failed is no chance.
            `rule.max_appearances` bounds the pairs that one program is in; the strongest pairs come first.
        answers: candidate id -> its dev verdicts in the order of the questions, None where it was not asked one.

    Returns:
        Pairs, best chosen program first; at most `rule.max_pairs`. Empty where nothing separates two programs.

    Raises:
        ValueError: evidence is asked for without answers.
    """
    if rule.rule == "confident" and answers is None:
        raise ValueError("pair.rule confident needs the answers that it takes its evidence from")
    best, rejected = ranked(current), rejected_side(current, rule)
    chosen = best[: share_count(len(best), rule.chosen_share)] if best else []
    chosen = chosen + elites(earlier, rule.elites)
    chosen.sort(key=lambda c: (-(c.rank_gain or 0.0), c.iteration, c.index))
    pairs = [_make(prompt, good, bad) for good in chosen for bad in rejected if _better(good, bad)]
    if answers is not None and rule.rule == "confident":
        least = log(rule.min_evidence)
        pairs = [p for p in pairs if p.rejected_score is None or _log_evidence(p, answers) >= least]
    if rule.max_appearances is not None:
        pairs = _bounded(pairs, rule.max_appearances)
    return pairs[: rule.max_pairs]


def rejected_side(current: Sequence[ScoredCandidate], rule: PairConfig) -> list[ScoredCandidate]:
    """Who is rejected in an iteration: the worst share of its programs, and what failed where the rule says so."""
    order = by_score(current)
    worst = order[len(order) - share_count(len(order), rule.rejected_share) :] if order else []
    return worst + _failures(current) if rule.failures == "reject" else worst


def external_pairs(
    prompt: str, external: Sequence[ScoredCandidate], current: Sequence[ScoredCandidate], count: int, rule: PairConfig
) -> list[PreferencePair]:
    """Pairs whose chosen side was written by no generator: external programs over this iteration's rejected.

    An external program counts as verified: no score is compared, so some of these pairs may stand the wrong way round.

    Returns:
        At most `count`, the first external program first; fewer where there are no more.
    """
    rejected = rejected_side(current, rule)
    pairs = [_make(prompt, good, bad) for good in external for bad in rejected if good.completion != bad.completion]
    if rule.max_appearances is not None:
        pairs = _bounded(pairs, rule.max_appearances)
    return pairs[:count]


def inverted_share(pairs: Sequence[PreferencePair], answers: Mapping[str, AnswerRow]) -> float | None:
    """Estimated share of pairs whose chosen program is truly the worse one; None without pairs.

    Per pair: the true difference is normal with mean 0 and twice the variance between all candidates in `answers`
    (`shrink.between_variance`) before, and shrunken towards 0 after the measured difference; the pair is wrong with the
    chance that it is negative. Because the prior is fitted, pairs picked for their large measured difference are not
    taken at face value. Pairs whose rejected program failed are right.

    Args:
        pairs: from `pair`, with any rule.
        answers: verdicts of all scored candidates, to fit the prior, those of every pair among them.
    """
    if not pairs:
        return None
    prior = 2 * between_variance(list(answers.values()))
    return fmean(0.0 if p.rejected_score is None else _chance_wrong(p, answers, prior) for p in pairs)


def _chance_wrong(p: PreferencePair, answers: Mapping[str, AnswerRow], prior: float) -> float:
    difference, noise = _measured_difference(answers[p.chosen_id], answers[p.rejected_id])
    if prior == 0:  # all candidates are equally good, as far as can be told
        return 0.5
    # posterior mean / posterior standard deviation of the true difference
    return NormalDist().cdf(-difference * sqrt(prior / (noise * (prior + noise))))


def _measured_difference(first: AnswerRow, second: AnswerRow) -> tuple[float, float]:
    """(difference of accuracies, its sampling variance): paired, or of two samples that share no question.

    Half a win and half a loss are added to the variance, so that few discordant questions do not look like certainty.
    """
    wins, losses, both = discordant(first, second)
    if both:
        difference = (wins - losses) / both
        return difference, ((wins + losses + 1) / both - difference**2) / both
    (mean_a, variance_a), (mean_b, variance_b) = _accuracy(first), _accuracy(second)
    return mean_a - mean_b, variance_a + variance_b


def _accuracy(row: AnswerRow) -> tuple[float, float]:
    """(share of right answers, its sampling variance with one right and one wrong answer added)."""
    asked = [bool(value) for value in row if value is not None]
    smoothed = (sum(asked) + 1) / (len(asked) + 2)
    return sum(asked) / max(1, len(asked)), smoothed * (1 - smoothed) / (len(asked) + 2)


def _log_evidence(p: PreferencePair, answers: Mapping[str, AnswerRow]) -> float:
    """Log e-value for "chosen is better"; programs without a common question are not separated."""
    wins, losses, _ = discordant(answers[p.chosen_id], answers[p.rejected_id])
    return log_e_better(wins, losses)


def _bounded(pairs: Sequence[PreferencePair], most: int) -> list[PreferencePair]:
    """Pairs taken in order, leaving out those of a program that has had its share."""
    seen: Counter[str] = Counter()
    taken = []
    for p in pairs:
        if seen[p.chosen_id] < most and seen[p.rejected_id] < most:
            seen.update((p.chosen_id, p.rejected_id))
            taken.append(p)
    return taken


def elites(earlier: Sequence[ScoredCandidate], count: int) -> list[ScoredCandidate]:
    """The `count` best of each earlier iteration."""
    found: list[ScoredCandidate] = []
    for iteration in sorted({c.iteration for c in earlier}):
        found += ranked([c for c in earlier if c.iteration == iteration])[:count]
    return found


def _failures(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """Programs that ran into an error or gave an invalid result. Empty completions teach nothing and stay out."""
    return [c for c in candidates if c.status is not ExecutionStatus.OK and c.completion.strip()]


def _better(good: ScoredCandidate, bad: ScoredCandidate) -> bool:
    if good.completion == bad.completion:
        return False
    return bad.rank_gain is None or (good.rank_gain is not None and good.rank_gain > bad.rank_gain)


def _make(prompt: str, good: ScoredCandidate, bad: ScoredCandidate) -> PreferencePair:
    return PreferencePair(
        prompt, good.completion, bad.completion, good.id, bad.id, good.measured or 0.0, bad.measured
    )  # fmt: skip
