"""Cross-improvement in a run: human-designed merges among the chosen, by schedule."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from selfdev import loop
from selfdev.baselines import method_source, published_order, table
from selfdev.config import load_config
from selfdev.errors import UsageError
from selfdev.estimates import best_baseline
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.store import Store
from tests.scripted import quality, racing_config, racing_parts, scripted_config


def distinct(source: str, salt: str = "") -> float | None:
    """Every human-designed merge but the seed is another one, of middling quality."""
    if "# quality" in source or "torch.zeros_like(tensor)" in source:
        return quality(source)
    return 0.3 + 0.3 * int(hashlib.sha256((salt + source).encode()).hexdigest()[:6], 16) / 16**6


def run(path: Path, schedule: str, quality_of: Callable[[str], float | None] = distinct, **keys: object) -> str:
    config = racing_config(**{"cross.schedule": schedule, "cross.pairs": 7, "iterations": 3, **keys})
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file, RunDirectory(path, config) as directory:
        directory.begin()
        loop.run(config, directory, racing_parts(4, quality_of=quality_of), RunView(console))
        return console.export_text()


def external_pairs(path: Path) -> list[list[tuple[str, str]]]:
    """Per iteration (name of the human-designed merge, id of the rejected program)."""
    store = Store(path / "store.sqlite", read_only=True)
    human = {row.id: row for row in store.baselines()}
    found = []
    for iteration in [row["iteration"] for row in store.iterations()]:
        pairs = store.pairs(iteration, "p")
        external = [p for p in pairs if p.chosen_id in human]
        assert len(pairs) > len(external)
        for p in external:
            assert p.chosen == human[p.chosen_id].text.strip() + "\n```"
            assert store.candidate(p.rejected_id).iteration == iteration
        record = store.iterations()[iteration - 1]["evidence"].get("external")
        assert record == ({"due": len(external), "pairs": len(external)} if external else None)
        found.append([(human[p.chosen_id].name, p.rejected_id) for p in external])
    store.close()
    return found


@pytest.mark.parametrize(("schedule", "wanted"), [("early", [7, 0, 0]), ("uniform", [2, 3, 2]), ("late", [0, 0, 7])])
def test_only_the_timing_differs(schedule: str, wanted: list[int], tmp_path: Path) -> None:
    """Own pairs grow from iteration to iteration, through the elites; the external ones are 7 all the same."""
    text = run(tmp_path / "run", schedule)
    assert list(map(len, external_pairs(tmp_path / "run"))) == wanted
    assert f"external pairs: {max(wanted)}" in text


def test_dev_scores_of_the_finals_questions_have_no_say(tmp_path: Path) -> None:
    """With other scores of the baselines, and all else as it was, the same programs are chosen."""
    run(tmp_path / "one", "early", iterations=1)
    run(tmp_path / "other", "early", lambda source: distinct(source, "salt"), iterations=1)
    [first] = external_pairs(tmp_path / "one")
    assert [first] == external_pairs(tmp_path / "other")
    assert list(dict.fromkeys(name for name, _ in first))[:2] == ["uniform average", "Task Arithmetic 0.4 0.4 0.4"]


def test_what_cannot_be_placed_is_said_and_own_pairs_make_room(tmp_path: Path) -> None:
    keys = {"pair.max_appearances": 1, "pair.max_pairs": 9, "cross.pairs": 9, "iterations": 1}
    text = run(tmp_path / "run", "early", **keys)
    store = Store(tmp_path / "run" / "store.sqlite", read_only=True)
    placed = store.iterations()[0]["evidence"]["external"]
    assert (placed["due"], placed["pairs"]) == (9, 5)  # of 18 that ran 30 % are rejected, each may be in one pair
    assert "external pairs: 5 of 9 due; for 4 there was no program to reject" in text
    store.close()
    run(tmp_path / "full", "early", **{"pair.max_pairs": 7, "iterations": 1})
    store = Store(tmp_path / "full" / "store.sqlite", read_only=True)
    human = {row.id for row in store.baselines()}
    assert [p.chosen_id in human for p in store.pairs(1, "p")] == [True] * 7
    store.close()


def test_refused_baselines_are_neither_external_nor_the_best(tmp_path: Path) -> None:
    config = racing_config(**{"cross.schedule": "early", "iterations": 1})
    with open(os.devnull, "w") as null, RunDirectory(tmp_path / "run", config) as directory:
        directory.begin()
        work = loop.Run(config, directory, racing_parts(2, quality_of=distinct), RunView(Console(file=null)))
        loop.record_facts(work)
        loop.score_baselines(work)
        best = best_baseline(work.store).id
        for refused in (best, loop.external_programs(work)[0].id):
            work.store.set_refused(refused, "cut")
            assert refused not in {program.id for program in loop.external_programs(work)}
        assert best_baseline(work.store).id != best


def test_every_schedule_brings_in_as_many() -> None:
    for iterations in (1, 2, 3, 5):
        for schedule in ("early", "uniform", "late"):
            config = scripted_config(**{"cross.schedule": schedule, "cross.pairs": 40, "iterations": iterations})
            assert sum(loop.external_due(config, i) for i in range(1, iterations + 1)) == 40
    assert [loop.external_due(scripted_config(), i) for i in (1, 2, 3)] == [0, 0, 0]


def test_the_published_order() -> None:
    rows = sorted(table(["a", "b"], method_source("ties")), key=lambda row: published_order(row.kind, row.source))
    names = [row.name for row in rows]
    assert names[:2] == ["uniform average", "Task Arithmetic 0.4 0.4"]
    assert names[10:] == ["the prompt's worked example", "seed model", "a", "b"]


def test_an_early_end_would_lose_late_pairs() -> None:
    late = {"cross.schedule": "late", "gap.stop_when_converged": True, "iterations": 5}
    with pytest.raises(UsageError, match=r"may end the run before the external pairs of cross\.schedule late"):
        load_config(overrides=late)
    assert load_config(overrides=late | {"cross.schedule": "early"}).gap.stop_when_converged


def test_one_iteration_must_be_able_to_hold_them() -> None:
    few = {"pair.max_pairs": 20, "cross.pairs": 21}
    assert load_config(overrides=few)
    with pytest.raises(UsageError, match=r"cross\.pairs 21 exceeds pair\.max_pairs 20"):
        load_config(overrides=few | {"cross.schedule": "uniform"})
