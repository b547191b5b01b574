"""Greedy soup and grid search, with dev scores made up by the test."""

from __future__ import annotations

from typing import Any

import pytest

from selfdev.baselines import greedy_soup, grid_search, method_source
from selfdev.baselines.registry import constants
from selfdev.errors import StageError


def by_members(scores: dict[tuple[int, ...], float | None]) -> Any:
    """Scores programs by what they average; what is not named must not be asked for."""
    return lambda program: scores[constants(program)["MEMBERS"]]


def test_a_soup_takes_what_does_not_lower_dev() -> None:
    soup = greedy_soup(
        4,
        by_members(
            {(0,): 0.5, (1,): 0.7, (2,): 0.6, (3,): 0.6}  # order: 1, then 2 before 3, then 0
            | {(1, 2): 0.69, (1, 3): 0.7, (0, 1, 3): 0.8}
        ),
    )
    assert soup.members == (0, 1, 3)
    assert soup.score == 0.8
    assert soup.program == method_source("subset_average", MEMBERS=(0, 1, 3))
    assert [members for members, _ in soup.tried] == [(0,), (1,), (2,), (3,), (1, 2), (1, 3), (0, 1, 3)]


def test_a_soup_of_one() -> None:
    soup = greedy_soup(2, by_members({(0,): 0.4, (1,): 0.3, (0, 1): 0.2}))
    assert (soup.members, soup.score) == ((0,), 0.4)


def test_sources_without_a_score_stay_out() -> None:
    soup = greedy_soup(3, by_members({(0,): None, (1,): 0.3, (2,): 0.2, (1, 2): None}))
    assert soup.members == (1,)
    assert soup.tried == (((0,), None), ((1,), 0.3), ((2,), 0.2), ((1, 2), None))
    with pytest.raises(StageError, match="none of the 2 sources"):
        greedy_soup(2, lambda program: None)


def test_the_first_of_the_best_points_wins() -> None:
    scores = {0.3: 0.5, 0.5: 0.6, 0.7: 0.6}
    tuned = grid_search("slerp", 2, lambda program: scores[constants(program)["T"]])
    assert tuned.parameters == {"PAIR": (0, 1), "T": 0.5}
    assert tuned.score == 0.6
    assert [score for _, score in tuned.tried] == [0.5, 0.6, 0.6]
    assert tuned.programs == (method_source("slerp", PAIR=(0, 1), T=0.5),)


def test_a_random_method_counts_with_its_mean() -> None:
    def score(program: str) -> float | None:
        found = constants(program)
        if found["DROP"] == 0.1:
            return [0.9, 0.0, 0.0][found["SEED"]]  # a lucky draw
        if found["DROP"] == 0.9 and found["SEED"] == 2:
            return None
        return 0.5 if found["DROP"] == 0.7 else 0.4

    tuned = grid_search("dare_linear", 3, score)
    assert tuned.parameters == {"DROP": 0.7}
    assert [constants(program)["SEED"] for program in tuned.programs] == [0, 1, 2]
    assert [score for _, score in tuned.tried] == pytest.approx([0.3, 0.4, 0.4, 0.5, None])


def test_a_method_that_never_scores() -> None:
    with pytest.raises(StageError, match="ties: none of its 15 points"):
        grid_search("ties", 3, lambda program: None)
