"""Baselines that look at dev scores: greedy soup, and the best point of a method's grid. Pure but for the callback.

The callback takes a program and gives its dev score, or None where it has none (it failed); it is called in a fixed
order. Test data has no place here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from selfdev.baselines.registry import Value, method_source, points, programs
from selfdev.errors import StageError

Score = Callable[[str], float | None]


@dataclass(frozen=True, slots=True)
class Soup:
    """A greedy soup."""

    members: tuple[int, ...]  # sources, in configured order
    program: str
    score: float
    tried: tuple[tuple[tuple[int, ...], float | None], ...]  # (members, dev score), in the order of evaluation


@dataclass(frozen=True, slots=True)
class Tuned:
    """A method at the best point of its grid."""

    parameters: dict[str, Value]
    programs: tuple[str, ...]  # one per seed
    score: float  # mean over the seeds
    tried: tuple[tuple[dict[str, Value], float | None], ...]  # every point in order; None if a program had no score


def greedy_soup(sources: int, score: Score) -> Soup:
    """Average the best sources as long as dev does not fall (arXiv 2203.05482, recipe 1): 2 * sources - 1 evaluations.

    Sources are tried from the best dev score down, configured order where equal; one joins if the average with it
    scores at least as well as without.

    Raises:
        StageError: no source has a score.
    """
    tried: list[tuple[tuple[int, ...], float | None]] = []

    def evaluate(members: tuple[int, ...]) -> float | None:
        found = score(method_source("subset_average", MEMBERS=members))
        tried.append((members, found))
        return found

    alone = {index: evaluate((index,)) for index in range(sources)}
    ranked = sorted((-found, index) for index, found in alone.items() if found is not None)
    if not ranked:
        raise StageError(f"greedy soup: none of the {sources} sources has a dev score")
    best = -ranked[0][0]
    members: tuple[int, ...] = (ranked[0][1],)
    for _, index in ranked[1:]:
        wider = tuple(sorted((*members, index)))
        found = evaluate(wider)
        if found is not None and found >= best:
            best, members = found, wider
    return Soup(members, method_source("subset_average", MEMBERS=members), best, tuple(tried))


def grid_search(name: str, sources: int, score: Score) -> Tuned:
    """The point of a method's grid with the highest dev score, the first of equal ones. A random method counts with its
    mean over the seeds, so that no lucky draw is chosen.

    Raises:
        StageError: no point has a score.
    """
    tried: list[tuple[dict[str, Value], float | None]] = []
    best: tuple[float, dict[str, Value], tuple[str, ...]] | None = None
    for point in points(name, sources):
        made = tuple(programs(name, point))
        found = [score(program) for program in made]
        known = [each for each in found if each is not None]
        mean = sum(known) / len(known) if len(known) == len(found) else None
        tried.append((point, mean))
        if mean is not None and (best is None or mean > best[0]):
            best = (mean, point, made)
    if best is None:
        raise StageError(f"{name}: none of its {len(tried)} points has a dev score")
    return Tuned(best[1], best[2], best[0], tuple(tried))
