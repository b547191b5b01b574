"""The gap of a run with scripted parts: judged once, measured from the store, shown, and ended by it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from selfdev import loop
from selfdev.gap_records import Quantity, recorded
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory, read_run_config
from selfdev.store import Store
from selfdev.verifiers.base import Judgement
from selfdev.verify import gain_over_seed, measure_iteration
from selfdev.wiring import Parts
from tests.scripted import racing_config, racing_parts, scripted_config, scripted_parts


def run(path: Path, parts: Parts | None = None, racing: bool = False, **overrides: object) -> str:
    """One run (or its continuation); returns what it printed."""
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    config = (racing_config if racing else scripted_config)(**overrides)
    made = parts or (racing_parts(int(config.iterations) + 1) if racing else scripted_parts())
    with console.file, RunDirectory(path, config) as directory:
        directory.begin()
        loop.run(config, directory, made, RunView(console))
        return console.export_text()


def opened(path: Path) -> Store:
    return Store(path / "store.sqlite", read_only=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("gap") / "run"
    return path, run(path, racing=True, iterations=2)


def test_every_sample_is_judged(finished: tuple[Path, str]) -> None:
    store = opened(finished[0])
    first, second = store.judgements(1), store.judgements(2)
    assert set(first) == {"likelihood"}  # before the first training there is no implicit reward
    assert set(second) == {"likelihood", "implicit-reward"}
    ids = [row.id for row in store.candidates(2, "generated")]
    assert list(second["implicit-reward"]) == list(second["likelihood"]) == ids
    row = store.candidates(1, "generated")[0]
    assert first["likelihood"][row.id] == Judgement(pytest.approx(0.6065306597), row.nll)  # half a nat per word
    assert all("gap" in phases for i, phases in store.seconds().items() if i > 0)
    store.close()


def test_the_measurement_can_be_recomputed_from_the_store(finished: tuple[Path, str]) -> None:
    store, config = opened(finished[0]), read_run_config(finished[0])
    for record in store.iterations():
        gaps, gain = recorded(record["gap"])
        assert gaps == measure_iteration(store, config, record["iteration"])
        assert gain == gain_over_seed(store, config, record["iteration"])
    store.close()


def test_scores_are_those_on_the_opening_questions(finished: tuple[Path, str]) -> None:
    store = opened(finished[0])
    scored = [c for c in store.scored(1) if c.opening_score is not None]
    gap = recorded(store.iterations()[0]["gap"])[0]["likelihood"]
    assert (gap.samples, gap.scored) == (20, len(scored))
    assert gap.quantities["solver_score"].value == pytest.approx(
        sum(c.opening_score or 0 for c in scored) / len(scored)
    )
    seed = sum(store.seed_verdicts(1)[:8])
    assert {c.opening_seed for c in scored if c.opening_total == 8 and c.duplicate_of is None} == {seed}
    better = sum((c.opening_correct or 0) > c.opening_seed for c in scored)
    assert gap.quantities["better"].value == pytest.approx(better / len(scored))
    store.close()


def test_the_tables_are_shown(finished: tuple[Path, str]) -> None:
    for part in ("solver-verifier gap, best of 16 by likelihood: dev score", "uncertainty, nats", "implicit-reward",
                 "J(f[w])", "AUC"):  # fmt: skip
        assert part in finished[1], part


def test_what_was_judged_is_not_judged_again(tmp_path: Path) -> None:
    """The process dies after one verifier; the next start asks only the other, and the store is the same."""
    parts, asked = scripted_parts(), []

    @contextmanager
    def dying(names: Sequence[str], adapter: Path | None):
        asked.append((tuple(names), adapter))
        with parts.open_verifiers(names, adapter) as verifiers:
            if len(asked) == 2:

                def die(responses: object) -> list[Judgement]:
                    raise KeyboardInterrupt

                verifiers[1].score = die  # type: ignore[method-assign]
            yield verifiers

    broken, path = replace(parts, open_verifiers=dying), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(path, broken, iterations=2)
    run(path, broken, iterations=2)
    written = path / "checkpoints" / "iteration-1"
    assert asked == [
        (("likelihood",), None),
        (("likelihood", "implicit-reward"), written),
        (("implicit-reward",), written),
    ]
    run(tmp_path / "whole", parts, iterations=2)
    first, second = opened(path), opened(tmp_path / "whole")
    assert first.dump() == second.dump()
    first.close()
    second.close()


def test_rows_of_earlier_versions_are_shown(tmp_path: Path) -> None:
    from selfdev.report.gap import gap_text

    old = {"samples": 9, "n": 4, "solver_score": 0.5, "verifier_score": 0.6, "score_gap": 0.1, "solver_nll": 20.0,
           "verifier_nll": 15.0, "nll_gap": 5.0, "solver_nll_per_token": 0.2,
           "verifier_nll_per_token": 0.1}  # fmt: skip
    assert "dev score 0.600 (best of 4 of 9 by own likelihood) - 0.500 (mean) = +0.100" in gap_text(old).plain
    assert recorded(old) == recorded({}) == ({}, Quantity(None))
    assert json.loads(json.dumps(old)) == old
