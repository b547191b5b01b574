"""Scored programs -> preference pairs. Pure.

Paper (arXiv 2410.15639, section 3.2): chosen = top 3 % by dev score, rejected = bottom 10 %, and the top 3 of every
earlier iteration join the chosen side. The paper does not say how pairs are formed; here every chosen program meets
every rejected one whose score is strictly lower. Programs whose merged task vector repeats an earlier one are left out
(their pair would teach nothing about the score). Ties are broken by the order of drawing, so the result depends on
nothing but the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfdev.config import PairConfig
from selfdev.types import ExecutionStatus, PreferencePair, ScoredCandidate


def by_score(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """Scored originals, best first; equal scores keep the order of drawing."""
    scored = [c for c in candidates if c.score is not None and c.duplicate_of is None]
    return sorted(scored, key=lambda c: (-(c.score or 0.0), c.iteration, c.index))


def ranked(candidates: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """`by_score` without the refused: who may win, and be the chosen side of a pair."""
    return [c for c in by_score(candidates) if c.refused is None]


def share_count(count: int, share: float) -> int:
    """How many of `count` a share is: rounded to nearest (halves up), at least one, at most all."""
    return min(count, max(1, int(count * share + 0.5)))


def pair(
    prompt: str, current: Sequence[ScoredCandidate], earlier: Sequence[ScoredCandidate], rule: PairConfig
) -> list[PreferencePair]:
    """The preference pairs of one iteration.

    Args:
        prompt: the fixed generator prompt.
        current: all candidates of this iteration, failed ones included.
        earlier: all candidates of the iterations before it.
        rule: shares, elites, and what failures may do.

    Returns:
        Pairs, best chosen program first; at most `rule.max_pairs`. Empty where no score separates two programs.
    """
    best, order = ranked(current), by_score(current)
    chosen = best[: share_count(len(best), rule.chosen_share)] if best else []
    rejected = order[len(order) - share_count(len(order), rule.rejected_share) :] if order else []
    chosen = chosen + elites(earlier, rule.elites)
    chosen.sort(key=lambda c: (-(c.score or 0.0), c.iteration, c.index))
    if rule.failures == "reject":
        rejected = rejected + _failures(current)
    pairs = [_make(prompt, good, bad) for good in chosen for bad in rejected if _better(good, bad)]
    return pairs[: rule.max_pairs]


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
    return bad.score is None or (good.score is not None and good.score > bad.score)


def _make(prompt: str, good: ScoredCandidate, bad: ScoredCandidate) -> PreferencePair:
    assert good.score is not None  # ranked() lets only scored programs through
    return PreferencePair(prompt, good.completion, bad.completion, good.id, bad.id, good.score, bad.score)
