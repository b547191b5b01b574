"""The gap, against numbers worked by hand and against brute force over all subsets."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.gap import selection_weights, track_gap
from tests.unit.builders import scored


def test_weights_by_hand() -> None:
    # best of 2 out of 4: C(3,1)/C(4,2) = 1/2, then 2/6, 1/6, 0
    assert selection_weights(4, 2) == pytest.approx([1 / 2, 1 / 3, 1 / 6, 0])
    assert selection_weights(3, 1) == pytest.approx([1 / 3] * 3)
    assert selection_weights(3, 3) == [1, 0, 0]


@pytest.mark.parametrize("n", [0, 4])
def test_n_must_fit(n: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.3"):
        selection_weights(3, n)


def test_gap_by_hand() -> None:
    # per token: a 1.0, b 2.0, c 4.0; best of 2 of 3 picks a with 2/3, b with 1/3, c never
    a = scored(0, 80, nll=10.0, tokens=10)
    b = scored(1, 50, nll=40.0, tokens=20)
    c = scored(2, 20, nll=20.0, tokens=5)
    gap = track_gap([a, b, c, scored(3, None, nll=1.0, tokens=10)], n=2)
    assert gap is not None
    assert (gap.samples, gap.n) == (3, 2)
    assert gap.solver_score == pytest.approx(0.5)
    assert gap.verifier_score == pytest.approx(2 / 3 * 0.8 + 1 / 3 * 0.5)  # 0.7
    assert gap.score_gap == pytest.approx(0.2)
    assert gap.solver_nll == pytest.approx(70 / 3)
    assert gap.verifier_nll == pytest.approx(2 / 3 * 10 + 1 / 3 * 40)  # 20
    assert gap.nll_gap == pytest.approx(10 / 3)
    assert gap.solver_nll_per_token == pytest.approx(7 / 3)
    assert gap.verifier_nll_per_token == pytest.approx(4 / 3)


def test_fewer_than_two_scored_programs_have_no_gap() -> None:
    assert track_gap([scored(0, 10), scored(1, None)], n=16) is None


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 60)), min_size=2, max_size=7), st.integers(1, 9))
def test_expectation_equals_the_mean_over_all_subsets(rows, n) -> None:
    candidates = [scored(i, correct, nll=float(nll)) for i, (correct, nll) in enumerate(rows)]
    gap = track_gap(candidates, n)
    assert gap is not None
    order = sorted(candidates, key=lambda c: (c.nll / c.tokens, c.index))
    picks = [min(subset) for subset in combinations(range(len(order)), gap.n)]
    assert gap.verifier_score == pytest.approx(sum(order[p].score for p in picks) / len(picks))
    assert gap.verifier_nll <= gap.solver_nll + 1e-9  # equal lengths: the criterion is the NLL itself
