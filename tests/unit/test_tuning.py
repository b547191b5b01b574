"""Tuning on a scripted run in which every program's right answers are given: what is chosen, and on what."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from selfdev import loop, tuning
from selfdev.baselines.registry import METHODS, WRAPPERS, defaults, method, method_source, points, programs
from selfdev.evaluation import Run
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.stats import paired_gain
from selfdev.tuning import KIND, SOUP, least_programs, listed_points, tune, tuned, tuned_table
from selfdev.types import Completion
from tests.scripted import HashedWorker, racing_config, racing_parts
from tests.unit.studies import printed

SIZE, CHOOSE = 40, 28  # questions of a block, and those that choose
SEED_RIGHT = (10, 3)  # of the 28 that choose, of the 12 others


class Answering(HashedWorker):
    """A program is right on the first questions of either part of a block: quality a.b is a of 28 and b / 10 of 12."""

    def _answer(self, quality: float, prompts: Sequence[str]) -> tuple[Completion, ...]:
        first, second = int(quality), round((quality % 1) * 100)
        places = [int(re.findall(r"\d+", prompt)[0]) % SIZE for prompt in prompts]
        right = [place < first if place < CHOOSE else place - CHOOSE < second for place in places]
        texts = [self._answers[p] if ok else " #### -1" for p, ok in zip(prompts, right, strict=True)]
        return tuple(Completion(text, 4, quality == self.cut) for text in texts)


@contextmanager
def opened(path: Path, right: dict[str, float | None]) -> Iterator[Run]:
    """A run whose baselines are scored; `right` maps programs to their quality, None where one fails."""

    def quality(source: str) -> float | None:
        if source in right:
            return right[source]
        return SEED_RIGHT[0] + SEED_RIGHT[1] / 100 if "torch.zeros_like(tensor)" in source else 1.0

    config = racing_config(iterations=1)
    parts = racing_parts(2, worker_class=Answering, quality_of=quality)
    with open(os.devnull, "w") as sink, RunDirectory(path, config) as directory:
        directory.begin()
        run = Run(config, directory, parts, RunView(Console(file=sink)))
        loop.record_facts(run)
        loop.score_baselines(run)
        yield run


def given(run: Run, right: dict[str, float | None], name: str, *qualities: float | tuple[float | None, ...]) -> None:
    """Qualities of a method's points in this run's order: a number, or one for each of its programs."""
    for point, quality in zip(tuning.run_points(run, [name]), qualities, strict=True):
        each = quality if isinstance(quality, tuple) else (quality,) * len(point.programs)
        right |= dict(zip(point.programs, each, strict=True))


def first(count: int, of: int) -> list[bool]:
    return [place < count for place in range(of)]


def test_points_are_chosen_on_one_part_and_estimated_on_the_other(tmp_path: Path) -> None:
    right: dict[str, float | None] = {}
    with opened(tmp_path / "run", right) as run:
        given(run, right, "slerp", 12.01, 20.05, 20.09, 15.12, 2.0, 2.01, 2.02, 2.03, 2.04)
        given(run, right, "sce", 18.08, 17.12, 3.0)
        tune(run, ["slerp", "sce"], 10**6)
        sce, slerp = tuned(run, ["slerp", "sce"])  # best first by what did not choose
        assert (slerp.method, slerp.tried, slerp.name) == ("slerp", 9, tuning.run_points(run, ["slerp"])[1].name)
        assert (slerp.chosen_on, slerp.score) == (pytest.approx(20 / 28), pytest.approx(5 / 12))  # the first of equals
        assert slerp.gain == paired_gain(first(5, 12), first(3, 12))
        assert (sce.method, sce.tried) == ("sce", 3)
        assert (sce.chosen_on, sce.score) == (pytest.approx(18 / 28), pytest.approx(8 / 12))
        assert tuned(run, ["sce"]) == [sce]


def test_a_point_with_too_many_cut_answers_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answering, "cut", 20.05)
    right: dict[str, float | None] = {}
    with opened(tmp_path / "run", right) as run:
        given(run, right, "sce", 12.01, 20.05, 15.12)
        tune(run, ["sce"], 10**6)
        [sce] = tuned(run, ["sce"])
        assert (sce.tried, sce.chosen_on) == (2, pytest.approx(15 / 28))


def test_a_random_method_needs_all_its_seeds_and_twins_cost_nothing(tmp_path: Path) -> None:
    right: dict[str, float | None] = {}
    with opened(tmp_path / "run", right) as run:
        given(run, right, "dare_linear", (25.0, 25.0, None), (12.03, 15.06, 18.09), 16.07, 25.0, (25.0, 1.0, 1.0))
        tune(run, ["dare_linear"], SIZE)
        assert run.store.evaluations(KIND) == SIZE  # the first program
        assert tuned(run, ["dare_linear"]) == []
        right |= dict.fromkeys(tuning.run_points(run, ["dare_linear"])[3].programs, 16.07)
        tune(run, ["dare_linear"], 10**6)
        [found] = tuned(run, ["dare_linear"])
        # 25, 12.03, 15.06, 18.09, 16.07 and 1 are six merges; twins, also of what an earlier call has run, are free
        assert run.store.evaluations(KIND) == 6 * SIZE
        assert found.tried == 4
        assert found.chosen_on == pytest.approx(16 / 28)  # the mean of 12, 15 and 18 is 15; of 25, 1 and 1 it is 9
        assert found.score == pytest.approx(7 / 12)
        assert found.gain[0] == pytest.approx(4 / 12)


def test_the_budget_is_spent_to_its_last_whole_program(tmp_path: Path) -> None:
    right: dict[str, float | None] = {}
    with opened(tmp_path / "run", right) as run:
        given(run, right, "slerp", *(float(n) for n in range(2, 11)))
        tune(run, ["slerp"], 3 * SIZE - 1)
        assert run.store.evaluations(KIND) == 2 * SIZE
        assert {row.name.split()[0] for row in run.store.candidates(0, KIND)} == {"slerp"}  # no soup unless named
        tune(run, ["slerp"], 3 * SIZE)
        assert run.store.evaluations(KIND) == 3 * SIZE


def test_greedy_soup_is_mixed_by_the_questions_that_choose(tmp_path: Path) -> None:
    qualities = {(0,): 12.06, (1,): 15.02, (2,): 9.01, (0, 1): 10.12, (1, 2): 16.03, (0, 1, 2): 1.12}
    right: dict[str, float | None] = {
        method_source("subset_average", MEMBERS=members): quality for members, quality in qualities.items()
    }
    with opened(tmp_path / "run", right) as run:
        tune(run, [SOUP], 4 * SIZE)
        assert tuned(run, [SOUP]) == []  # stopped before its last average
        tune(run, [SOUP], 10**6)
        [soup] = tuned(run, [SOUP])
        # alone 1 is best, then 0: with it 10 < 15; then 2: with it 16 >= 15
        assert (soup.name, soup.tried) == ("greedy_soup MEMBERS=(1, 2)", 5)
        assert (soup.chosen_on, soup.score) == (pytest.approx(16 / 28), pytest.approx(3 / 12))
        assert soup.gain[0] == 0


def test_defaults_come_first_then_grids_in_turn_each_in_an_order_of_its_own() -> None:
    names = ["single_source", "slerp", "sce", "ties"]
    listed = listed_points(names, 3, 0)
    assert [p.name for p in listed[:3]] == [f"{name} at its defaults" for name in ("ties", "slerp", "sce")]
    assert [p.method for p in listed[3:7]] == ["single_source", "ties", "slerp", "sce"]
    for name in names:
        own, other = (
            [p.programs for p in listed if p.method == name] for listed in (listed, listed_points(names, 3, 1))
        )
        grid = [tuple(programs(name, defaults(name, 3) | point)) for point in points(name, 3)]
        assert set(own) >= set(grid)
        assert set(own) == set(other)
    assert [p.name for p in listed if p.method == "ties"] != [
        p.name for p in listed_points(names, 3, 1) if p.method == "ties"
    ]


def test_methods_that_need_more_sources_are_left_out() -> None:
    alone = {p.method for p in listed_points([row.name for row in (*METHODS, *WRAPPERS)], 1, 0)}
    assert alone == {row.name for row in (*METHODS, *WRAPPERS) if row.sources[0] == 1} - {"zero"}
    assert "slerp" not in alone
    assert method("slerp").sources[0] == 2


def test_the_same_values_are_one_point() -> None:
    for row in (*METHODS, *WRAPPERS):
        if row.name == "zero":
            continue
        usual = defaults(row.name, 3)
        values = [usual | point for point in points(row.name, 3)]
        values += [usual] if row.name != "single_source" and usual not in values else []
        assert len(listed_points([row.name], 3, 0)) == len(values), row.name


def test_the_fewest_programs_that_tune_are_all_defaults_and_one_more_point() -> None:
    assert least_programs(["ties", "dare_linear"], 3, 0) == 1 + 3 + 1  # three seeds of the random one
    assert least_programs(["dare_linear"], 3, 0) == 3 + 3


def test_a_single_run_has_the_paired_score_interval() -> None:
    answered, seed = first(5, 12), first(3, 12)
    assert tuning.mean_gain([answered], seed) == paired_gain(answered, seed)
    # twice the same: the mean of the differences 1, 1 and ten times 0, variance (2 - 12 / 36) / 11
    gain, low, high = tuning.mean_gain([answered, answered], seed)
    assert gain == pytest.approx(1 / 6)
    assert high - gain == pytest.approx(1.959964 * ((2 - 1 / 3) / 11 / 12) ** 0.5)
    assert gain - low == pytest.approx(high - gain)


def test_names_and_figures_fit_a_terminal(tmp_path: Path) -> None:
    right: dict[str, float | None] = {}
    names = ["breadcrumbs_ties", "subset_average", "slerp"]
    with opened(tmp_path / "run", right) as run:
        for number, name in enumerate(names):
            given(run, right, name, *(2.01 + number for _ in tuning.run_points(run, [name])))
        tune(run, names, 10**6)
        cells = printed(tuned_table(run, names), 80).split()
        assert {*names, "0.083", "-0.167"} <= set(cells)  # 1 of 12 and 1 - 3 of 12
