"""What is derived from the fields of a candidate, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfdev.types import RaceStanding
from tests.unit.builders import scored

DROPPED = RaceStanding(place=5, asked=16, correct=4, wins=1, losses=7, dropped="futile", finalist=False)
FINALIST = RaceStanding(place=0, asked=28, correct=21, wins=9, losses=2, dropped=None, finalist=True)


def test_without_a_race_the_score_is_all_there_is() -> None:
    c = replace(scored(0, 30, total=40), seed_correct=20)
    assert (c.score, c.gain, c.measured, c.opening_score, c.rank_gain) == (0.75, 0.25, 0.75, 0.75, 0.25)
    assert c.final_score is None


def test_who_was_dropped_has_no_score_but_a_measured_share() -> None:
    c = replace(scored(0, None), standing=DROPPED, opening_correct=2, opening_total=8)
    assert (c.score, c.gain, c.final_score) == (None, None, None)
    assert c.measured == 4 / 16
    assert c.opening_score == 2 / 8
    assert c.rank_gain == (1 - 7) / 16


def test_a_finalist_has_the_score_of_the_held_out_questions() -> None:
    c = replace(
        scored(0, 9, total=12), standing=FINALIST, seed_correct=6, opening_correct=5, opening_total=8,
        final_correct=30, final_total=40,
    )  # fmt: skip
    assert (c.score, c.gain, c.measured, c.rank_gain) == (0.75, 0.25, 0.75, 0.25)  # not 21/28, and not (9-2)/28
    assert (c.opening_score, c.final_score) == (0.625, 0.75)


def test_who_was_asked_nothing_is_not_divided_by_zero() -> None:
    c = replace(scored(0, None), standing=replace(DROPPED, asked=0, correct=0, wins=0, losses=0))
    assert (c.measured, c.rank_gain) == (0.0, 0.0)


@pytest.mark.parametrize("correct", [0, None])
def test_no_score_is_not_a_score_of_zero(correct: int | None) -> None:
    c = scored(0, correct)
    assert c.score == (None if correct is None else 0.0)
    assert c.rank_gain == (None if correct is None else 0.0)
    assert c.measured == (None if correct is None else 0.0)
