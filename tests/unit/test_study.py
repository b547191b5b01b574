"""What a study costs, by what a store says of the run so far."""

from __future__ import annotations

from pathlib import Path

from selfdev.store import QuestionRow, Store
from selfdev.study import cost_line
from selfdev.types import Split
from tests.unit.builders import answer, row


def test_the_cost_is_told_at_the_speed_of_what_has_been_asked(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    store.add_questions([QuestionRow(f"dev-{i}", Split.DEV, str(i), "add", turn=i) for i in range(4)])
    assert cost_line(store, 100) == "at most 100 question-evaluations"
    seed, mean, program = row(0, 0, "seed"), row(1, 0, "mean"), row(0)
    store.add_candidates([seed, mean, program])
    for made, count in ((seed, 4), (mean, 2), (program, 3)):
        store.add_answers(made.id, [answer(i, True) for i in range(count)])
    store.add_seconds(0, "baselines", 12.0)  # 2 s for each of six answers
    store.add_seconds(1, "train", 500.0)
    assert cost_line(store, 60) == "at most 60 question-evaluations, about 2.0 minutes at the speed of the run"
    for phase, seconds in (("evaluate", 1.5), ("race", 2.5)):
        store.add_seconds(1, phase, seconds)
    store.add_seconds(0, "finals", 5.0)  # with these, 3 s for each of a program's three answers
    assert cost_line(store, 60) == "at most 60 question-evaluations, about 3.0 minutes at the speed of the run"
    store.close()
