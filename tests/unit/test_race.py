"""Racing on fields small enough to follow by hand, then its invariants on random ones."""

from __future__ import annotations

from dataclasses import replace
from math import log
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdev.race import (
    RaceRules,
    RaceState,
    Reason,
    Stage,
    choose_block,
    estimate,
    least_budget,
    log_e_values,
    question_order,
    race,
)
from selfdev.stats import log_e_better, paired_interval

RIGHT, WRONG = [True], [False]
Rows = dict[str, list[bool | None]]


def dropped(state: RaceState) -> dict[str, tuple[Reason | None, int]]:
    return {s.candidate: (s.dropped, s.asked) for s in state.standings}


def run(order: tuple[int, ...], seed: list[bool], truth: dict[str, list[bool]], rules: RaceRules) -> RaceState:
    """Ask what the race wants to know until it is over."""
    known: Rows = {name: [None] * len(seed) for name in truth}
    while (state := race(order, seed, known, rules)).blocks:
        for block in state.blocks:
            for position in block.positions:
                assert known[block.candidate][position] is None  # nothing is asked twice
                known[block.candidate][position] = truth[block.candidate][position]
    assert state.spent == sum(value is not None for row in known.values() for value in row)
    return state


def random_field(number: int, candidates: int = 8, questions: int = 60) -> tuple[list[bool], dict[str, list[bool]]]:
    random = Random(number)
    seed = [random.random() < 0.7 for _ in range(questions)]
    levels = [random.choice((0.05, 0.5, 0.7, 0.95)) for _ in range(candidates)]
    return seed, {f"c{i}": [random.random() < level for _ in seed] for i, level in enumerate(levels)}


def test_a_broken_merge_is_gone_after_seven_losses() -> None:
    # the seed is right on all: E(worse) = (2^(l+1) - 1) / (l + 1) is 18.1 after 6 losses, 31.9 after 7; 1 / 0.05 = 20
    seed, truth = RIGHT * 20, {"good": RIGHT * 20, "broken": WRONG * 20}
    state = run(tuple(range(20)), seed, truth, RaceRules(block=1, held_out=5, keep=1, alpha=0.05))
    assert dropped(state) == {"good": (None, 15), "broken": (Reason.FUTILE, 7)}
    assert state.finalists == ("good",)
    assert state.spent == 15 + 5 + 7


def test_blocks_follow_the_order_and_only_what_is_missing_is_asked() -> None:
    order = (3, 0, 2, 1, 4, 5)
    known: Rows = {"a": [None, None, None, True, None, None], "b": [True, None, None, True, None, None]}
    state = race(order, RIGHT * 6, known, RaceRules(block=2, held_out=2, keep=2))
    assert state.stage is Stage.RACE
    assert [(b.candidate, b.positions) for b in state.blocks] == [("a", (0,))]
    assert state.spent == 3
    known["a"][0] = True
    state = race(order, RIGHT * 6, known, RaceRules(block=2, held_out=2, keep=2))
    assert [(b.candidate, b.positions) for b in state.blocks] == [("a", (2, 1)), ("b", (2, 1))]


def test_only_the_best_answer_the_held_out_questions() -> None:
    seed, order = RIGHT * 4 + WRONG * 2, tuple(range(6))
    known: Rows = {
        "best": [True, True, True, True, None, None],
        "middle": [True, True, False, True, None, None],
        "last": [True, False, False, True, None, None],
    }
    state = race(order, seed, known, RaceRules(block=4, held_out=2, keep=2))
    assert (state.stage, state.finalists) == (Stage.HELD_OUT, ("best", "middle"))
    assert [(b.candidate, b.positions) for b in state.blocks] == [("best", (4, 5)), ("middle", (4, 5))]
    assert dropped(state)["last"] == (None, 4)
    for name in ("best", "middle"):
        known[name][4:] = [True, False]
    assert race(order, seed, known, RaceRules(block=4, held_out=2, keep=2)).stage is Stage.OVER


def test_at_least_keep_stay_however_bad() -> None:
    truth = {"a": WRONG * 30, "b": [True, *WRONG * 29], "c": [True, True, *WRONG * 28]}
    state = run(tuple(range(30)), RIGHT * 30, truth, RaceRules(block=10, held_out=5, keep=2))
    assert dropped(state) == {"c": (None, 25), "b": (None, 25), "a": (Reason.FUTILE, 10)}


def test_beaten_by_enough_others_though_equal_to_the_seed() -> None:
    """Seed and `plain` answer nothing, three others all: with 2 to keep, `plain` is not among the 2 best.

    Of 4 candidates the mean of the 2 smallest of its 3 e-values must reach 20. All are E(l, 0) = (2^(l+1) - 1) / (l+1):
    18.1 after 6 questions, 31.9 after 7.
    """
    truth = {"plain": WRONG * 20, "x": RIGHT * 20, "y": RIGHT * 20, "z": RIGHT * 20}
    state = run(tuple(range(20)), WRONG * 20, truth, RaceRules(block=1, held_out=2, keep=2, alpha=0.05))
    assert dropped(state)["plain"] == (Reason.BEATEN, 7)
    # with 1 other better and 2 to keep it may still be one of the 2 best
    truth = {"plain": WRONG * 20, "x": RIGHT * 20, "y": WRONG * 20, "z": WRONG * 20}
    state = run(tuple(range(20)), WRONG * 20, truth, RaceRules(block=1, held_out=2, keep=2, alpha=0.05))
    assert {reason for reason, _ in dropped(state).values()} == {None}


def test_the_budget_drops_the_worst_so_that_the_best_can_finish() -> None:
    # equals of the seed but for one question each; 4 candidates, 10 questions, all: 40
    seed, order = RIGHT * 10, tuple(range(10))
    truth = {f"c{i}": [j >= i for j in range(10)] for i in range(4)}  # c0 best, c3 misses the first 3
    rules = RaceRules(block=4, held_out=2, keep=1, budget=30)
    state = run(order, seed, truth, rules)
    # first round 16, left 14; the best needs 6 to the end, so 14 - 2 (its held-out questions) = 12 = 3 blocks of 4
    assert dropped(state) == {"c0": (None, 8), "c1": (None, 8), "c2": (None, 8), "c3": (Reason.BUDGET, 4)}
    assert state.spent == 30
    least = least_budget(4, 10, rules)
    assert least == 4 * 4 + 6
    assert run(order, seed, truth, replace(rules, budget=least)).spent == least
    with pytest.raises(ValueError, match="need at least 22"):
        race(order, seed, truth, replace(rules, budget=least - 1))


@pytest.mark.parametrize("at", [2, 3])
def test_a_refused_candidate_races_no_further(at: int) -> None:
    """Refused at the end of the first block, or within the second."""
    known: Rows = {"a": [True] * 8, "b": [True] * at + [None] * (8 - at)}
    rules = RaceRules(block=2, held_out=2, keep=2)
    state = race(tuple(range(8)), RIGHT * 8, known, rules, withdrawn={"b": at})
    assert dropped(state)["b"] == (Reason.REFUSED, 2)
    assert (state.stage, state.finalists) == (Stage.OVER, ("a",))


def test_refused_after_the_last_block_is_no_finalist() -> None:
    known: Rows = {"a": [True] * 8, "b": [True] * 6 + [None] * 2}
    rules = RaceRules(block=2, held_out=2, keep=2)
    state = race(tuple(range(8)), RIGHT * 8, known, rules, withdrawn={"b": 6})
    assert (state.stage, state.finalists) == (Stage.OVER, ("a",))


def test_nobody_races() -> None:
    state = race((0, 1), [True, False], {}, RaceRules(block=2, held_out=1, keep=1))
    assert (state.stage, state.blocks, state.spent) == (Stage.OVER, (), 0)


def test_the_estimate_looks_at_held_out_questions_only() -> None:
    # order 5 4 3 2 1 0, the last 3 (positions 2 1 0) held out: there the candidate wins 2 and loses 0
    seed = [False, False, True, True, True, True]
    row = [True, True, True, False, False, False]
    found = estimate((5, 4, 3, 2, 1, 0), seed, row, RaceRules(block=1, held_out=3, keep=1), "a")
    assert (found.correct, found.wins, found.losses, found.questions) == (3, 2, 0, 3)
    assert found.gain == pytest.approx(2 / 3)
    assert (found.low, found.high) == paired_interval(2, 0, 3)
    with pytest.raises(ValueError, match="1 of 3 held-out questions are not answered"):
        estimate((5, 4, 3, 2, 1, 0), seed, [None, *row[1:]], RaceRules(block=1, held_out=3, keep=1), "a")


def test_the_block_of_least_time() -> None:
    # sqrt(2 * 40 * 2 s / 0.1 s) = sqrt(1600) = 40
    assert choose_block(2.0, 0.1) == 40
    assert choose_block(0.0, 0.1) == 8
    assert choose_block(1e6, 0.1, highest=100) == 100
    with pytest.raises(ValueError, match="need swap"):
        choose_block(1.0, 0.0)


@pytest.mark.parametrize("b", [1, 5, 17, 40, 100])
def test_the_block_minimises_the_stated_cost(b: int) -> None:
    swap, question, typical = 3.0, 0.2, 40
    best = choose_block(swap, question, typical, lowest=1)

    def cost(block: int) -> float:
        return typical / block * swap + block / 2 * question

    assert cost(best) <= cost(b) * 1.001  # the block is a whole number


def test_question_order_is_a_permutation_of_its_seed() -> None:
    assert sorted(question_order(50, 3)) == list(range(50))
    assert question_order(50, 3) == question_order(50, 3) != question_order(50, 4)


@pytest.mark.parametrize(
    "rules",
    [{"block": 0}, {"held_out": -1}, {"keep": 0}, {"alpha": 0.0}, {"alpha": 1.0}],
)
def test_rules_out_of_range(rules: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need block"):
        RaceRules(**({"block": 1, "held_out": 0, "keep": 1} | rules))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("order", "row", "held_out"), [((0, 0), [True, True], 0), ((0, 1), [True], 0), ((0, 1), [True, True], 2)]
)
def test_rows_and_orders_that_do_not_fit(order: tuple[int, ...], row: list[bool], held_out: int) -> None:
    with pytest.raises(ValueError, match="need"):
        race(order, [True, True], {"a": row}, RaceRules(block=1, held_out=held_out, keep=1))


def test_the_table_is_the_scalar_formula() -> None:
    wins, losses = np.meshgrid(np.arange(40), np.arange(70), indexing="ij")
    table = log_e_values(wins, losses)
    for won, lost in [(0, 0), (7, 0), (0, 69), (39, 69), (20, 20)]:
        assert table[won, lost] == pytest.approx(log_e_better(won, lost), abs=1e-10)
    assert not np.isnan(table).any()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 200, 300]), st.integers(6, 16))
def test_one_call_with_all_answers_is_the_race_step_by_step(number: int, budget: int | None, block: int) -> None:
    """So a resumed run decides as an uninterrupted one: decisions depend on answers, not on calls."""
    seed, truth = random_field(number)
    rules = RaceRules(block=min(block, 12), held_out=10, keep=2, budget=budget)
    order = question_order(len(seed), number)
    stepwise, at_once = run(order, seed, truth, rules), race(order, seed, truth, rules)
    assert stepwise == at_once
    assert budget is None or stepwise.spent <= budget
    assert sum(s.dropped is None for s in stepwise.standings) >= 2


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_a_run_that_is_cut_anywhere_ends_the_same(number: int, random: Random) -> None:
    """Answers arrive one at a time in any order within the blocks; the race is asked anew after each."""
    seed, truth = random_field(number, candidates=4, questions=16)
    rules, order = RaceRules(block=5, held_out=3, keep=1), question_order(16, number)
    known: Rows = {name: [None] * 16 for name in truth}
    while (state := race(order, seed, known, rules)).blocks:
        block = random.choice(state.blocks)
        position = random.choice(block.positions)
        known[block.candidate][position] = truth[block.candidate][position]
    assert state == run(order, seed, truth, rules)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_candidates_plays_no_role(number: int, random: Random) -> None:
    seed, truth = random_field(number)
    shuffled = list(truth.items())
    random.shuffle(shuffled)
    rules, order = RaceRules(block=8, held_out=10, keep=2, budget=250), question_order(len(seed), number)
    assert race(order, seed, dict(shuffled), rules) == race(order, seed, truth, rules)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6))
def test_held_out_answers_decide_nothing(number: int) -> None:
    seed, truth = random_field(number)
    rules, order = RaceRules(block=8, held_out=10, keep=2), question_order(len(seed), number)
    turned = {name: [v ^ (order.index(i) >= 50) for i, v in enumerate(row)] for name, row in truth.items()}
    assert race(order, seed, turned, rules) == race(order, seed, truth, rules)


def test_held_out_estimates_are_unbiased_where_race_scores_are_not() -> None:
    """Sixty races of twenty candidates that are all as good as the seed: the winner's race score flatters it."""
    rules, flattered, fresh, covered = RaceRules(block=20, held_out=100, keep=1), [], [], 0
    for number in range(60):
        rng = np.random.default_rng(number)
        seed = (rng.random(200) < 0.7).tolist()
        truth = {f"c{i:02}": row for i, row in enumerate((rng.random((20, 200)) < 0.7).tolist())}
        order = tuple(range(200))
        state = race(order, seed, truth, rules)
        winner = state.standings[0]
        found = estimate(order, seed, truth[winner.candidate], rules, winner.candidate)
        flattered.append(winner.correct / winner.asked - 0.7)
        fresh.append(found.correct / 100 - 0.7)
        covered += found.low <= 0 <= found.high
    # best of 20 on 100 questions: about +8.6 points; standard error of the means below: 0.6 points
    assert np.mean(flattered) > 0.06
    assert abs(np.mean(fresh)) < 0.02
    assert covered >= 53  # 57 expected


def test_the_limit_of_the_evidence_is_the_one_stated() -> None:
    assert log_e_better(7, 0) > log(20) > log_e_better(6, 0)
