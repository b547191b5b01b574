"""Equal-budget controls on a scripted run: what they spend, that they race alike, resume, and stay out of the run."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from selfdev import final, loop
from selfdev.controls import ARMS, budget_of, control, spent, tuning_programs
from selfdev.errors import RunError, UsageError
from selfdev.evaluation import Run
from selfdev.methods import evaluate_methods, methods_table
from selfdev.report.arms import arms, arms_table, mean_interval
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.store import Store
from selfdev.tuning import listed_points, mean_gain, tune, tuned, tuned_table
from selfdev.types import Split
from tests.scripted import quality as scripted_quality
from tests.scripted import racing_config, scripted_config, scripted_parts, write

ITERATIONS = 2


def quality(source: str) -> float | None:
    """A quality for any program, spread over 0 to 1; one in eight of those that nobody designed fails."""
    if "# quality" in source:
        return scripted_quality(source)
    value = int(hashlib.sha256(source.encode()).hexdigest()[:8], 16)
    designed = re.search(r"(?m)^[A-Z_]+ = ", source) or '"""' in source
    return None if value % 8 == 0 and not designed else 0.1 + (value % 900) / 1000


@contextmanager
def opened(path: Path, racing: bool, **overrides: object):
    blocks = ITERATIONS + 1 if racing else 1
    config = (racing_config if racing else scripted_config)(iterations=ITERATIONS, **overrides)
    parts = scripted_parts(write, quality, blocks)
    with open(os.devnull, "w") as sink, RunDirectory(path, config) as directory:
        directory.begin()
        yield Run(config, directory, parts, RunView(Console(file=sink)))


def search(path: Path, racing: bool, **overrides: object) -> None:
    with opened(path, racing, **overrides) as run:
        loop.run(run.config, run.directory, run.parts, run.view)


@pytest.fixture(scope="module", params=[True, False], ids=["racing", "everything"])
def finished(request, tmp_path_factory) -> tuple[Path, bool]:
    """A finished run with one of each control."""
    path = tmp_path_factory.mktemp("controls") / "run"
    search(path, request.param)
    with opened(path, request.param) as run:
        for arm in ARMS:
            assert control(run, arm) == arm
    return path, request.param


def test_a_control_spends_what_the_run_spent_and_never_more(finished) -> None:
    path, racing = finished
    with opened(path, racing) as run:
        for iteration in (1, 2):
            budget, size = budget_of(run, iteration), len(run.block_of(iteration))
            for arm in ARMS:
                used = spent(run, iteration, arm)
                assert used <= budget, arm
                drawn = run.store.candidates(iteration, arm)
                if arm in ("grammar", "random"):  # they can always draw one more that is new
                    assert budget - used < size, arm
                assert drawn, arm
                if not racing and arm in ("grammar", "random"):
                    assert used == budget  # every program costs the same, so it comes out even


def test_controls_ask_the_questions_of_their_iteration(finished) -> None:
    path, racing = finished
    store = Store(path / "store.sqlite", read_only=True)
    for block, who, iteration, used, _ in store.question_uses():
        assert who == "baselines" or block in (0, iteration if racing else 0), who
        assert used <= store.question_count(Split.DEV, block)
    store.close()


def test_the_best_of_each_control_is_registered_and_tested_beside_the_winner(finished, tmp_path: Path) -> None:
    path, racing = finished
    with opened(path, racing) as run:
        roles = run.store.winners()
        assert {f"control {arm}" for arm in ARMS} <= set(roles)
        for arm in ARMS:
            best = run.store.candidate(roles[f"control {arm}"])
            assert best.kind == arm
            counts = run.store.final_counts()
            finals = [c for c in run.store.scored(kind=arm) if c.final_score is not None and c.duplicate_of is None]
            assert counts[best.id].correct == max(c.final_correct or 0 for c in finals)
        assert final.test(run) == len(set(roles.values()))
        assert run.store.openings() == 1
        table = {a.kind: a for a in arms(run.store)}
        assert next(iter(table)) == "generated"
        assert all(table[arm].test is not None and table[arm].gain is not None for arm in ARMS)
        console = Console(width=110, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        with console.file:
            console.print(arms_table(run.store))
        text = console.export_text()
        assert all(arm in text for arm in (*ARMS, "selfdev"))


def test_controls_leave_the_runs_own_tables_alone(finished, tmp_path: Path) -> None:
    path, racing = finished
    search(tmp_path / "alone", racing)
    with_controls, alone = (Store(p / "store.sqlite", read_only=True) for p in (path, tmp_path / "alone"))
    assert with_controls.scored() == alone.scored()
    assert with_controls.pairs(2, "p") == alone.pairs(2, "p")
    with_controls.close()
    alone.close()


def test_a_finished_control_is_not_run_again_and_the_same_seed_gives_the_same_rows(finished, tmp_path: Path) -> None:
    path, racing = finished
    search(tmp_path / "again", racing)
    with opened(tmp_path / "again", racing) as run:
        for arm in ("tpe", "random", "tuned"):
            control(run, arm)
            rows = run.store.candidates(kind=arm)
            control(run, arm)
            assert run.store.candidates(kind=arm) == rows
    first, second = (Store(p / "store.sqlite", read_only=True) for p in (path, tmp_path / "again"))
    for arm in ("tpe", "random", "tuned"):
        assert first.candidates(kind=arm) == second.candidates(kind=arm)
        assert first.verdicts(1, arm) == second.verdicts(1, arm)
    first.close()
    second.close()


def test_a_stopped_control_goes_on_where_it_was(tmp_path: Path) -> None:
    """An interrupt after every number of recorded programs; the rows at the end are those of an uninterrupted one."""
    search(tmp_path / "whole", True)
    search(tmp_path / "stopped", True)
    for arm in ("tpe", "grammar"):
        with opened(tmp_path / "whole", True) as run:
            control(run, arm)
            rows = list(run.store.candidates(kind=arm))
            expected = (rows, run.store.verdicts(1, arm), run.store.standings())
        for allowed in range(3, 200, 11):
            left = [allowed]
            with opened(tmp_path / "stopped", True) as run:
                original = run.store.add_answers

                def counted(*args, original=original, left=left):
                    left[0] -= 1
                    if left[0] < 0:
                        raise KeyboardInterrupt
                    return original(*args)

                run.store.add_answers = counted  # type: ignore[method-assign]
                try:
                    control(run, arm)
                    break
                except KeyboardInterrupt:
                    continue
        with opened(tmp_path / "stopped", True) as run:
            control(run, arm)
            assert (list(run.store.candidates(kind=arm)), run.store.verdicts(1, arm), run.store.standings()) == expected


def test_repeats_are_kinds_of_their_own(finished) -> None:
    path, racing = finished
    with opened(path, racing) as run:
        assert control(run, "random", 1) == "random 2"
        first, second = (run.store.candidates(1, kind) for kind in ("random", "random 2"))
        assert {row.source for row in first}.isdisjoint(row.source for row in second)
        found = [a for a in arms(run.store) if a.kind.startswith("random")]
        assert len(found) == 2


def test_a_control_needs_a_finished_run_and_a_known_name(tmp_path: Path) -> None:
    with opened(tmp_path / "run", True) as run:
        with pytest.raises(RunError, match="has not ended"):
            control(run, "random")
        with pytest.raises(UsageError, match="there is no control 'luck'"):
            control(run, "luck")


def test_methods_are_scored_once_beside_the_run(finished) -> None:
    path, racing = finished
    with opened(path, racing) as run:
        evaluate_methods(run, ["ties", "dare_linear"])
        rows = run.store.candidates(0, "method")
        assert [row.name for row in rows] == ["ties", *["dare_linear"] * 3]  # three seeds of the random one
        before = run.store.evaluations("method")
        evaluate_methods(run, ["ties", "dare_linear", "uniform_average"])
        assert run.store.evaluations("method") - before <= len(run.block_of(0))
        console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        with console.file:
            console.print(methods_table(run.store, ["ties"]))
        text = console.export_text()
        assert "ties" in text
        assert "dare_linear" not in text


def test_what_was_asked_for_by_a_command_is_no_baseline(finished) -> None:
    path, racing = finished
    with opened(path, racing) as run:
        baselines, known = run.store.baselines(), run.store.known_results()
        evaluate_methods(run, ["magmax"])
        tune(run, ["slerp"], 10**6)
        assert run.store.baselines() == baselines
        assert run.store.known_results() == known  # or a generated program could be called its duplicate


def test_tuning_spends_its_budget_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    search(tmp_path / "run", True)
    with opened(tmp_path / "run", True) as run:
        size, names = len(run.block_of(0)), ["slerp", "greedy_soup"]
        tune(run, names, 6 * size + 1)
        first = {row.id: row for row in run.store.candidates(0, "tuning") if row.status is not None}
        assert run.store.evaluations("tuning") == 6 * size
        assert tuned(run, ["greedy_soup"])[0].tried >= 3
        tune(run, names, 6 * size + 1)
        assert run.store.evaluations("tuning") == 6 * size
        tune(run, names, 100 * size)
        rows = {row.id: row for row in run.store.candidates(0, "tuning")}
        assert all(rows[i] == row for i, row in first.items())
        assert all(row.status is not None for row in rows.values())
        assert sum(row.name.startswith("slerp") for row in rows.values()) == 9  # 3 pairs x 3 values of T
        found = {row.method: row for row in tuned(run, names)}
        assert found["slerp"].tried == 9
        choosing = range(round(0.7 * size))
        verdicts = run.store.verdicts(0, "tuning", 0)
        shares = [
            sum(bool(verdicts[i][q]) for q in choosing) / len(choosing)
            for i, row in rows.items()
            if row.name.startswith("slerp") and i in verdicts
        ]
        assert found["slerp"].chosen_on == pytest.approx(max(shares))
        console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        with console.file:
            console.print(tuned_table(run, names))
        assert "greedy_soup" in console.export_text()


def test_a_random_method_is_chosen_by_the_mean_of_its_seeds() -> None:
    listed = listed_points(["dare_linear", "slerp"], 3, 0)
    assert listed[:2] == [listed_points(["dare_linear"], 3, 0)[0], listed_points(["slerp"], 3, 0)[0]]
    assert {len(p.programs) for p in listed if p.method == "dare_linear"} == {3}
    assert len({p.programs for p in listed}) == len(listed)
    assert [p for p in listed if p.method == "slerp"] == listed_points(["slerp"], 3, 0)  # whatever else is tuned
    assert [p.name for p in listed_points(["karcher"], 3, 0)] == ["karcher at its defaults"]  # it has no grid
    # two questions, two seeds of the method: it wins half of the first, the seed has the second
    gain, low, high = mean_gain([[True, True], [False, True]], [False, True])
    assert gain == pytest.approx(0.25)
    assert high - gain == pytest.approx(1.959964 * 0.25)  # differences 0.5 and 0: variance 0.125, over 2 questions
    assert gain - low == pytest.approx(high - gain)


def test_tuning_begins_with_defaults_and_repeats_nothing() -> None:
    listed = tuning_programs(3, 0)
    assert [name for name, _ in listed[:2]] == ["uniform_average", "task_arithmetic"]
    assert len({source for _, source in listed}) == len(listed) > 300
    assert tuning_programs(3, 0) == listed
    assert tuning_programs(3, 1) != listed


def test_an_interval_between_runs_by_hand() -> None:
    """Mean 0.7, standard deviation 0.1, three runs: t(0.975, 2) = 4.302653, reach 4.302653 * 0.1 / sqrt(3)."""
    low, high = mean_interval([0.6, 0.7, 0.8])
    assert low == pytest.approx(0.7 - 0.248414, abs=1e-5)
    assert high == pytest.approx(0.7 + 0.248414, abs=1e-5)
    with pytest.raises(ValueError, match="at least two runs"):
        mean_interval([0.5])
