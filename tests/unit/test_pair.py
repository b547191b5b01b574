"""Pairing: the paper's shares on numbers small enough to check by eye."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.config import PairConfig
from selfdev.pair import (
    by_gain,
    by_score,
    elites,
    external_pairs,
    in_finals,
    inverted_share,
    pair,
    ranked,
    share_count,
)
from selfdev.types import ExecutionStatus, RaceStanding, ScoredCandidate
from tests.unit.builders import scored

PAPER = PairConfig()


def ids(pairs):
    return [(p.chosen_id, p.rejected_id) for p in pairs]


def test_shares_round_to_nearest_with_at_least_one() -> None:
    assert [share_count(n, 0.03) for n in (1, 16, 17, 49, 50, 100, 300)] == [1, 1, 1, 1, 2, 3, 9]
    assert [share_count(n, 0.10) for n in (1, 14, 15, 100)] == [1, 1, 2, 10]


def test_top_three_percent_meet_bottom_ten_percent() -> None:
    # 100 programs with dev scores 0..99: the top 3 are 99, 98, 97; the bottom 10 are 9..0
    pairs = pair("p", [scored(i, i) for i in range(100)], [], PAPER)
    assert len(pairs) == 3 * 10
    assert ids(pairs)[0] == ("id1-99", "id1-9")
    assert {p.chosen_score for p in pairs} == {0.99, 0.98, 0.97}
    assert {p.rejected_score for p in pairs} == {i / 100 for i in range(10)}
    assert {p.prompt for p in pairs} == {"p"}


def test_three_elites_of_every_earlier_iteration_join_the_chosen_side() -> None:
    earlier = [scored(i, 50 + i, iteration=1) for i in range(5)] + [scored(i, 80 - i, iteration=2) for i in range(5)]
    current = [scored(0, 60, iteration=3), scored(1, 10, iteration=3)]
    assert [c.id for c in elites(earlier, 3)] == ["id1-4", "id1-3", "id1-2", "id2-0", "id2-1", "id2-2"]
    chosen = [p.chosen_id for p in pair("p", current, earlier, PAPER)]
    assert chosen == ["id2-0", "id2-1", "id2-2", "id3-0", "id1-4", "id1-3", "id1-2"]


def test_equal_scores_make_no_pair() -> None:
    assert pair("p", [scored(i, 40) for i in range(30)], [], PAPER) == []


def test_one_survivor_makes_no_pair_and_none_makes_none() -> None:
    assert pair("p", [scored(0, 40), scored(1, None)], [], PAPER) == []
    assert pair("p", [scored(0, None)], [], PAPER) == []


def test_failures_take_part_only_when_the_rule_says_so() -> None:
    current = [scored(0, 40), scored(1, 30), scored(2, None), scored(3, None, completion="  \n")]
    assert ids(pair("p", current, [], PAPER)) == [("id1-0", "id1-1")]
    with_failures = pair("p", current, [], PairConfig(failures="reject"))
    assert ids(with_failures) == [("id1-0", "id1-1"), ("id1-0", "id1-2")]
    assert with_failures[1].rejected_score is None


def test_repeats_of_an_earlier_merge_are_left_out() -> None:
    current = [scored(0, 90, duplicate_of="id0"), scored(1, 50), scored(2, 10)]
    assert [c.id for c in ranked(current)] == ["id1-1", "id1-2"]
    assert ids(pair("p", current, [], PAPER)) == [("id1-1", "id1-2")]


def test_the_number_of_pairs_is_bounded_from_the_best_down() -> None:
    pairs = pair("p", [scored(i, i) for i in range(100)], [], PairConfig(max_pairs=7))
    assert len(pairs) == 7
    assert {p.chosen_id for p in pairs} == {"id1-99"}


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 100)), max_size=60),
    st.lists(st.integers(0, 100), max_size=20),
    st.sampled_from(["exclude", "reject"]),
)
def test_chosen_is_always_better_and_only_scored_programs_are_chosen(current, earlier, failures) -> None:
    now = [scored(i, c, iteration=2) for i, c in enumerate(current)]
    before = [scored(i, c, iteration=1) for i, c in enumerate(earlier)]
    pairs = pair("p", now, before, PairConfig(failures=failures))
    by_id = {c.id: c for c in now + before}
    for p in pairs:
        good, bad = by_id[p.chosen_id], by_id[p.rejected_id]
        assert good.status is ExecutionStatus.OK
        assert bad.iteration == 2
        assert (bad.score is None and failures == "reject") or p.chosen_score > p.rejected_score
    assert len(set(ids(pairs))) == len(pairs)


def test_a_refused_program_is_never_chosen_but_may_be_rejected() -> None:
    """Best of all by score, but most of its answers were cut short; and one of the same kind at the bottom."""
    refused = [replace(scored(i, correct), refused="too long") for i, correct in ((0, 99), (1, 1))]
    current = [*refused, scored(2, 50), scored(3, 40)]
    assert [c.index for c in ranked(current)] == [2, 3]
    pairs = pair("p", current, [], PairConfig(chosen_share=0.5, rejected_share=0.25))
    assert [(p.chosen_id, p.rejected_id) for p in pairs] == [("id1-2", "id1-1")]
    assert pair("p", [replace(scored(5, 10), iteration=2)], refused, PairConfig(elites=1)) == []


# -- evidence, appearances, inverted pairs ----------------------------------------------------------------------------


def rows(*counts: int, total: int = 40) -> tuple[list, dict]:
    """Programs that answer their first `count` questions, with their answers."""
    current = [scored(i, c, total=total) for i, c in enumerate(counts)]
    return current, {c.id: [j < counts[i] for j in range(total)] for i, c in enumerate(current)}


WIDE = PairConfig(chosen_share=0.34, rejected_share=0.67)


def confident(rule: PairConfig = PAPER, **changes: object) -> PairConfig:
    return rule.model_copy(update={"rule": "confident", **changes})


def test_confident_pairs_are_those_that_the_answers_separate() -> None:
    # 30 against 24: 6 wins, E = 127 / 7 = 18.1; 30 against 23: 7 wins, E = 31.9
    current, answers = rows(30, 24, 23)
    assert ids(pair("p", current, [], WIDE)) == [("id1-0", "id1-1"), ("id1-0", "id1-2")]
    assert ids(pair("p", current, [], confident(WIDE), answers)) == [("id1-0", "id1-2")]
    wider = confident(WIDE, min_evidence=18.0)
    assert ids(pair("p", current, [], wider, answers)) == [("id1-0", "id1-1"), ("id1-0", "id1-2")]


def test_only_questions_that_both_answered_are_evidence() -> None:
    current, answers = rows(30, 20)
    answers["id1-1"] = [None] * 24 + answers["id1-1"][24:]  # 6 of the 10 wins are left
    assert pair("p", current, [], confident(), answers) == []
    answers["id1-1"] = [None] * 40
    assert pair("p", current, [], confident(min_evidence=1.1), answers) == []


def test_a_failure_needs_no_evidence() -> None:
    current, answers = rows(30, 29)
    current.append(scored(2, None))
    found = pair("p", current, [], confident(failures="reject"), answers)
    assert ids(found) == [("id1-0", "id1-2")]


def test_no_program_appears_more_often_than_allowed() -> None:
    current = [scored(i, i) for i in range(100)]
    # chosen 99 98 97, rejected 9 .. 0; two appearances each: 99 and 98 take 9 and 8, 97 takes 7 and 6
    found = pair("p", current, [], PairConfig(max_appearances=2))
    assert [(p.chosen_id[4:], p.rejected_id[4:]) for p in found] == [
        ("99", "9"), ("99", "8"), ("98", "9"), ("98", "8"), ("97", "7"), ("97", "6"),
    ]  # fmt: skip
    assert pair("p", current, [], PairConfig(max_appearances=30)) == pair("p", current, [], PAPER)


@pytest.mark.parametrize("bad", [{"min_evidence": 0.5}, {"max_appearances": 0}])
def test_bounds_out_of_range(bad) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        PairConfig(**bad)


def test_evidence_needs_answers() -> None:
    with pytest.raises(ValueError, match="needs the answers"):
        pair("p", [scored(0, 2), scored(1, 1)], [], confident())


def test_the_paper_rule_looks_at_no_answers() -> None:
    current, answers = rows(30, 29)
    assert pair("p", current, [], WIDE, answers) == pair("p", current, [], WIDE)


# -- after a race -----------------------------------------------------------------------------------------------------


def raced(
    index: int, place: int, held_out: str | None, race_marks: str, seed_held_out: int = 1, iteration: int = 2
) -> ScoredCandidate:
    """A program after a race against a seed that answers none of the race questions; None: it was dropped."""
    standing = RaceStanding(
        place, len(race_marks), race_marks.count("1"), race_marks.count("1"), 0,
        None if held_out is not None else "beaten", held_out is not None,
    )  # fmt: skip
    correct = None if held_out is None else held_out.count("1")
    base = scored(index, correct, iteration, len(held_out or ""), status=ExecutionStatus.OK)
    return replace(base, standing=standing, seed_correct=0 if held_out is None else seed_held_out)


def test_a_race_orders_by_place_and_pairs_by_gain() -> None:
    """Best by held-out score is not first in the race; who was dropped is the rejected side with its share so far."""
    first, second = raced(0, 0, "1100", "111111"), raced(1, 1, "1110", "111110")
    dropped = raced(2, 2, None, "1000")
    assert [c.id for c in by_score([dropped, second, first])] == ["id2-0", "id2-1", "id2-2"]
    assert [c.rank_gain for c in (first, second, dropped)] == [0.25, 0.5, 0.25]
    assert [c.id for c in by_gain([first, second, dropped])] == ["id2-1", "id2-0"]  # who has no score cannot win
    pairs = pair("p", [first, second, dropped], [], PairConfig(chosen_share=0.67, rejected_share=0.34))
    # 0.25 against 0.25 is no better
    assert [(p.chosen_id, p.rejected_id, p.chosen_score, p.rejected_score) for p in pairs] == [
        ("id2-1", "id2-2", 0.75, 0.25)
    ]


def test_confident_pairs_after_a_race_use_what_both_were_asked() -> None:
    """The dropped program answered the first 8 of 12 questions: the others' later answers are no evidence."""
    yes, no, none = [True], [False], [None]
    best, lucky = raced(0, 0, "1111", "1" * 8), raced(1, 1, "1111", "1" * 8)
    dropped = raced(2, 2, None, "0" * 8)
    answers = {"id2-0": yes * 12, "id2-1": no * 2 + yes * 10, "id2-2": no * 8 + none * 4}
    rule = PairConfig(rule="confident", chosen_share=0.67, rejected_share=0.34)
    # 8 wins: E = 511 / 9 = 56.8; 6 wins: E = 127 / 7 = 18.1
    assert ids(pair("p", [best, lucky, dropped], [], rule, answers)) == [("id2-0", "id2-2")]
    wider = rule.model_copy(update={"min_evidence": 18.0})
    assert ids(pair("p", [best, lucky, dropped], [], wider, answers)) == [("id2-0", "id2-2"), ("id2-1", "id2-2")]


def test_programs_of_other_iterations_share_no_question_and_make_no_confident_pair() -> None:
    old = raced(0, 0, "1111", "1" * 8, iteration=1)
    new = raced(1, 0, "1000", "1" * 8)
    dropped = raced(2, 1, None, "0" * 8)
    answers = {
        "id1-0": [True] * 12 + [None] * 12, "id2-1": [None] * 12 + [True] * 12,
        "id2-2": [None] * 12 + [False] * 8 + [None] * 4,
    }  # fmt: skip
    paper = pair("p", [new, dropped], [old], PairConfig(rejected_share=0.5), answers)
    assert ids(paper) == [("id1-0", "id2-2")]  # gain 0.75 against 0.0; the new one's 0.0 is no better
    assert pair("p", [new, dropped], [old], confident(rejected_share=0.5), answers) == []


def test_who_meets_in_the_finals_is_ordered_by_them() -> None:
    a = replace(raced(0, 0, "1111", "1" * 8, iteration=1), final_correct=20, final_total=40)
    b = replace(raced(0, 0, "1000", "1" * 8), final_correct=30, final_total=40)
    c = raced(1, 1, "1111", "1" * 8)
    refused = replace(b, id="r", refused="too long")
    repeat = replace(b, id="d", duplicate_of="id2-0")
    assert [x.id for x in in_finals([a, b, c, refused, repeat])] == ["id2-0", "id1-0"]


def test_inverted_share_by_hand() -> None:
    """Two programs, 16 questions, 8 wins and no loss.

    Difference 1/2. Between them: (1/4 - (1/2 - 1/4) / 15) / 2 = 7/60, so the prior has variance 7/30. Noise with half
    a win and half a loss added: (9/16 - 1/4) / 16 = 0.01953125. Chance: Phi(-0.5 sqrt(0.233333 / (0.01953125 *
    0.252865))) = Phi(-3.43682) = 0.000294.
    """
    current, answers = rows(12, 4, total=16)
    found = pair("p", current, [], PAPER)
    assert inverted_share(found, answers) == pytest.approx(0.000294, abs=2e-6)
    assert inverted_share([], answers) is None


def test_equal_programs_are_ordered_by_chance() -> None:
    # two wins, two losses apart from one another: less than noise explains, so the order means nothing
    answers = {"id1-0": [True, True, False, True], "id1-1": [False, True, True, False]}
    found = pair("p", [scored(0, 3, total=4), scored(1, 2, total=4)], [], PAPER)
    assert inverted_share(found, answers) == 0.5


def test_pairs_without_a_common_question_and_failures() -> None:
    current, answers = rows(30, 6)
    answers = {
        "id1-0": answers["id1-0"] + [None] * 40,
        "id1-1": [None] * 40 + answers["id1-1"],
        "x": [True, False] * 40,
    }
    share = inverted_share(pair("p", current, [], PAPER), answers)
    assert share is not None
    assert 0 <= share < 0.5
    failed = pair("p", [scored(0, 30), scored(2, None)], [], PairConfig(failures="reject"))
    assert inverted_share(failed, answers) == 0.0


def test_the_estimated_share_is_the_true_one() -> None:
    """Programs between 62 % and 78 %, 100 questions: estimated against known share of inverted pairs, 30 draws."""
    config, estimated, wrong = PairConfig(chosen_share=0.2, rejected_share=0.4), [], []
    for number in range(30):
        rng = np.random.default_rng(number)
        truth = rng.normal(0.7, 0.03, 30)
        table = (rng.random((30, 100)) < truth[:, None]).tolist()
        current = [scored(i, sum(row)) for i, row in enumerate(table)]
        found = pair("p", current, [], config)
        by_id = {c.id: truth[c.index] for c in current}
        estimated.append(inverted_share(found, {c.id: table[c.index] for c in current}))
        wrong.append(np.mean([by_id[p.chosen_id] < by_id[p.rejected_id] for p in found]))
    assert np.mean(wrong) > 0.03
    assert np.mean(estimated) == pytest.approx(np.mean(wrong), abs=0.05)


def test_external_programs_come_in_their_order_whatever_their_scores() -> None:
    # rejected of 20: the worst two
    current = [scored(i, i) for i in range(20)]
    external = [scored(i, correct, iteration=0) for i, correct in enumerate((30, 1, 40))]
    pairs = external_pairs("p", external, current, 99, PAPER)
    assert ids(pairs) == [(f"id0-{good}", f"id1-{bad}") for good in (0, 1, 2) for bad in (1, 0)]
    assert ids(external_pairs("p", external, current, 3, PAPER)) == ids(pairs)[:3]
    once = PAPER.model_copy(update={"max_appearances": 1})
    assert ids(external_pairs("p", external, current, 99, once)) == [("id0-0", "id1-1"), ("id0-1", "id1-0")]
    assert external_pairs("p", external, [], 99, PAPER) == []
