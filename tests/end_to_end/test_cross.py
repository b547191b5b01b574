"""Cross-improvement in a run: human-designed merges among the chosen, by schedule."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from rich.console import Console

from selfdev import loop
from selfdev.config import load_config
from selfdev.errors import UsageError
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.store import Store
from tests.scripted import quality, racing_config, racing_parts, scripted_config


def distinct(source: str) -> float | None:
    """Every human-designed merge is another one, of middling quality."""
    if "# quality" in source:
        return quality(source)
    return 0.3 + 0.3 * int(hashlib.sha256(source.encode()).hexdigest()[:6], 16) / 16**6


def run(path: Path, schedule: str) -> str:
    config = racing_config(**{"cross.schedule": schedule, "cross.share": 0.4, "iterations": 2})
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file, RunDirectory(path, config) as directory:
        directory.begin()
        loop.run(config, directory, racing_parts(3, quality_of=distinct), RunView(console))
        return console.export_text()


@pytest.mark.parametrize("schedule", ["early", "uniform"])
def test_only_the_timing_differs(schedule: str, tmp_path: Path) -> None:
    text = run(tmp_path / "run", schedule)
    store = Store(tmp_path / "run" / "store.sqlite", read_only=True)
    human = {row.id: row for row in store.baselines()}
    wanted = {"early": [0.4, 0.0], "uniform": [0.2, 0.2]}[schedule]
    for iteration, share in enumerate(wanted, start=1):
        pairs = store.pairs(iteration, "p")
        external = [p for p in pairs if p.chosen_id in human]
        own = len(pairs) - len(external)
        assert own > 0
        assert len(external) == round(own * share / (1 - share))
        record = store.iterations()[iteration - 1]["evidence"].get("external")
        assert record == (None if not share else {"share": pytest.approx(share), "pairs": len(external)})
        for p in external:
            assert human[p.chosen_id].kind != "seed"
            assert p.chosen == human[p.chosen_id].text.strip() + "\n```"
            assert store.candidate(p.rejected_id).iteration == iteration
    assert "external pairs: " in text
    store.close()


def test_shares_sum_to_the_same() -> None:
    for iterations in (1, 2, 3, 5):
        for schedule in ("early", "uniform", "late"):
            config = scripted_config(**{"cross.schedule": schedule, "cross.share": 0.4, "iterations": iterations})
            found = [loop.cross_share(config, i) for i in range(1, iterations + 1)]
            assert sum(found) == pytest.approx(0.4)
    assert [loop.cross_share(scripted_config(), i) for i in (1, 2, 3)] == [0, 0, 0]


def test_an_early_end_would_lose_late_pairs() -> None:
    late = {"cross.schedule": "late", "gap.stop_when_converged": True}
    with pytest.raises(UsageError, match=r"may end the run before the external pairs of cross\.schedule late"):
        load_config(overrides=late)
    assert load_config(overrides=late | {"cross.schedule": "early"}).gap.stop_when_converged
