"""`selfdev selfimprove` on the zoo's solver and a tiny model: files, resuming, external answers, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig
from rich.console import Console

from selfdev.cli import main
from selfdev.cli.gap import read_curves
from selfdev.cli.selfimprove import ConsoleView, execute
from selfdev.config import TaskConfig
from selfdev.errors import DataError, RunError, UsageError
from selfdev.selfimprove.directory import Directory, append_rows, keep_rows, read_rows
from selfdev.selfimprove.improve import Run, improve
from selfdev.selfimprove.problems import load_problems
from selfdev.selfimprove.settings import CrossConfig, ImproveConfig, SolverTrainConfig
from selfdev.tasks.arithmetic import questions
from tests.tiny import save_tiny, tiny_llama


def settings(**changes: Any) -> ImproveConfig:
    given: dict[str, Any] = {
        "model": "zoo:solver-seed",
        "task": TaskConfig(name="arithmetic", dev_size=6, test_size=4),
        "epochs": 2,
        "samples": 4,
        "sample_batch": 8,
        "train": SolverTrainConfig(learning_rate=2e-3, batch_size=2, micro_batch=2, lora_rank=2),
        "threads": 1,
    }
    return ImproveConfig(**{**given, **changes})


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """A whole self-improvement: its directory, what it printed, its result."""
    out = tmp_path_factory.mktemp("improved") / "run"
    stream = StringIO()
    found = execute(settings(), out, Console(file=stream, width=100))
    return out, stream.getvalue(), found


def test_everything_is_written(finished: tuple[Path, str, dict[str, Any]]) -> None:
    out, printed, found = finished
    (curve,), _ = read_curves(out / "curves.csv")
    assert curve.times == (
        0,
        pytest.approx(2 / 3),
        1,
        pytest.approx(5 / 3),
        2,
    )  # three steps an epoch, middle after two
    assert len(read_rows(out / "samples" / "epoch-02.jsonl")) == 6 * 4
    assert len(read_rows(out / "measurements" / "04.jsonl")) == 4 * 4
    for name in ("epoch-01-middle", "epoch-01", "epoch-02-middle", "epoch-02"):
        assert PeftConfig.from_pretrained(str(out / "checkpoints" / name)).r == 2
    assert json.loads(text(out / "result.json")) == found
    assert [point["time"] for point in found["points"]] == pytest.approx(curve.times)
    assert [trained["steps"] for trained in found["trained"]] == [3, 3]
    for part in ("48 to train on", "80 to measure", "time 0: U_s", "epoch 2: 6 answers, 3 steps", "change over all",
                 "J(f) J(f[w]) pass@N"):  # fmt: skip
        assert part in " ".join(printed.split())


def test_the_likeliest_sample_per_token_of_each_question_is_trained_on(
    finished: tuple[Path, str, dict[str, Any]],
) -> None:
    out, _, _ = finished
    samples = read_rows(out / "samples" / "epoch-01.jsonl")
    kept = read_rows(out / "kept" / "epoch-01.jsonl")
    assert len(kept) == 6
    for row in kept:
        own = [s for s in samples if s["question"] == row["question"] and not s["truncated"]]
        best = min(own, key=lambda s: s["nll"] / s["tokens"])
        assert (row["completion"], row["nll_per_token"]) == (best["text"], best["nll"] / best["tokens"])
        assert row["completion"].startswith(" ")  # the blank after "Answer:" is the model's own


def test_the_model_changes_and_measurements_see_it(finished: tuple[Path, str, dict[str, Any]]) -> None:
    _, _, found = finished
    solver = [point["solver"] for point in found["points"]]
    assert len(set(solver)) == len(solver)
    losses = [trained["last_loss"] for trained in found["trained"]]
    assert losses[1] < losses[0]


class Interrupting(ConsoleView):
    """Ends the process, as far as the method can see, after so many steps of progress."""

    def __init__(self, allowed: int) -> None:
        super().__init__(Console(file=StringIO()))
        self._left = allowed

    @contextmanager
    def phase(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        def advance(count: int) -> None:
            self._left -= count > 0
            if self._left < 0:
                raise KeyboardInterrupt

        yield advance


def test_one_that_is_stopped_again_and_again_ends_with_the_same(
    finished: tuple[Path, str, dict[str, Any]], tmp_path: Path
) -> None:
    config, stops = settings(), 0
    problems = load_problems(config)
    while True:
        with Directory(tmp_path / "run", config, problems.facts) as directory:
            try:
                improve(Run(config, problems, directory, Interrupting(4)))
                break
            except KeyboardInterrupt:
                stops += 1
    assert stops >= 4
    for name in ("curves.csv", "curves-train.csv", "samples/epoch-02.jsonl", "kept/epoch-02.jsonl"):
        assert text(tmp_path / "run" / name) == text(finished[0] / name)


def test_a_second_start_recomputes_everything_from_the_samples(
    finished: tuple[Path, str, dict[str, Any]], tmp_path: Path
) -> None:
    """Also of a run that an earlier version has measured by other rules."""
    out, _, found = finished
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    for name in ("curves.csv", "curves-train.csv", "result.json"):
        (copy / name).unlink()
    assert execute(settings(), copy, Console(file=StringIO(), width=100)) == found
    assert text(copy / "curves.csv") == text(out / "curves.csv")


def test_a_second_start_does_nothing_twice(finished: tuple[Path, str, dict[str, Any]]) -> None:
    out, _, found = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".jsonl", ".safetensors")}
    stream = StringIO()
    assert execute(settings(), out, Console(file=stream, width=100)) == found
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "continuing" in stream.getvalue()


def test_another_configuration_is_refused(finished: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> None:
    out, _, _ = finished
    with pytest.raises(RunError, match=r"self-improvement of another.*\(config.epochs: 2 -> 3\); give another --out"):
        execute(settings(epochs=3), out, Console(file=StringIO()))
    with pytest.raises(RunError, match=r"facts\.training questions"):
        Directory(out, settings(), {"training questions": "others"})
    shutil.copytree(out, tmp_path / "older")
    saved = json.loads(text(out / "config.json"))
    del saved["config"]["sample_batch"]
    (tmp_path / "older" / "config.json").write_text(json.dumps(saved))
    with pytest.raises(RunError, match=r"begun by an older version.*config\.sample_batch"):
        execute(settings(), tmp_path / "older", Console(file=StringIO()))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match=r"is not empty and holds no self-improvement .*; give another --out"):
        execute(settings(), tmp_path, Console(file=StringIO()))


def test_a_line_that_was_cut_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    append_rows(path, [{"a": 1}, {"a": "\u2028\n"}])
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"a": 3')
    assert read_rows(path) == [{"a": 1}, {"a": "\u2028\n"}]
    keep_rows(path, 1)
    append_rows(path, [{"a": 4}])
    assert read_rows(path) == [{"a": 1}, {"a": 4}]


# -- verifiers --------------------------------------------------------------------------------------------------------


def own_rows(path: Path, count: int) -> str:
    rows = [{"question": f"How much is {n} and {n}?", "answer": str(2 * n)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_model_that_keeps_nothing_is_measured_and_not_trained(tmp_path: Path) -> None:
    """A random model never ends, so every sample is cut; the paper's True/False verifier is asked all the same."""
    config = settings(
        model=str(save_tiny(tmp_path / "model", tiny_llama(seed=3))),
        task=TaskConfig(name="jsonl", data=own_rows(tmp_path / "rows.jsonl", 8), dev_size=3, test_size=4),
        epochs=1,
        select="true-false",
        threshold=0.5,
        max_new_tokens=3,
    )
    stream = StringIO()
    found = execute(config, tmp_path / "run", Console(file=stream, width=100))
    assert [point["kept"] for point in found["points"]] == [0, 0, 0]
    assert [point["gap"] for point in found["points"]] == [None] * 3
    assert all(point["solver_all"] > 0 for point in found["points"])
    assert found["one_rate"] is found["forecast"] is None
    assert "no fit: at fewer than 3 measurements the verifier kept a sample" in stream.getvalue()
    assert found["trained"][0]["rows"] == 0
    assert "epoch 1: 0 answers, 0 steps, nothing was kept" in stream.getvalue()
    qualities = read_rows(tmp_path / "run" / "measurements" / "00.quality.jsonl")
    assert len(qualities) == 4
    assert all(0 < quality < 1 for row in qualities for quality in row["qualities"])


# -- external answers -------------------------------------------------------------------------------------------------


def test_external_answers_take_the_place_of_own_ones_by_schedule() -> None:
    solutions = {f"Question: {p.question}\nAnswer:": p.rationale for p in questions("train", 6, 0)}
    seen = {}
    for schedule in ("early", "uniform", "late"):
        problems = load_problems(settings(cross=CrossConfig(schedule=schedule, share=0.7)))
        assert len(problems.external) == 4
        assert all(solutions[prompt] == completion for prompt, completion in problems.external)
        seen[schedule] = problems.external
    assert seen["early"] == seen["uniform"] == seen["late"]
    assert load_problems(settings()).external == ()


def test_external_answers_beside_what_the_majority_agrees_on(tmp_path: Path) -> None:
    config = settings(cross=CrossConfig(schedule="late", share=0.5), select="majority", threshold=0.5)
    stream = StringIO()
    found = execute(config, tmp_path / "run", Console(file=stream, width=200))
    kept = [read_rows(tmp_path / "run" / "kept" / f"epoch-0{epoch}.jsonl") for epoch in (1, 2)]
    assert [[row["source"] for row in rows].count("external") for rows in kept] == [0, 3]  # late: of two the second
    for epoch, rows in enumerate(kept, start=1):
        assert len({row["prompt"] for row in rows}) == len(rows)  # replaced, not added
        check_majority(read_rows(tmp_path / "run" / "samples" / f"epoch-0{epoch}.jsonl"), rows)
    assert found["external"]["rows"] == [0, 3]
    ends = [point["verifier"] for point in found["points"][::2]]
    assert found["external"]["gamma"]["value"] == pytest.approx(ends[1] / ends[2] - 1)
    assert "external answers per epoch: 0, 3; gamma" in stream.getvalue()


def check_majority(samples: list[dict[str, Any]], kept: list[dict[str, Any]]) -> None:
    own = {row["question"]: row for row in kept if row["source"] == "own"}
    external = {row["prompt"] for row in kept if row["source"] == "external"}
    for question in load_problems(settings()).train:
        answers = [s["extracted"] for s in samples if s["question"] == question.id]
        most = max(answers.count(answer) for answer in answers if answer is not None)
        assert (question.id in own) == (most >= 2 and question.prompt not in external)
        if question.id in own:
            assert own[question.id]["quality"] == most / 4


def test_bad_external_answers_are_refused(tmp_path: Path) -> None:
    base = load_problems(settings())

    def load(*rows: tuple[str, str], share: float = 0.5) -> None:
        path = tmp_path / "external.jsonl"
        path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows), encoding="utf-8")
        load_problems(settings(cross=CrossConfig(schedule="early", share=share, data=str(path))))

    def story(prompt: str) -> str:
        return prompt.removeprefix("Question: ").removesuffix("\nAnswer:")

    others = [(f"What is {n} + 1?", f"{n} + 1 = {n + 1}\n#### {n + 1}") for n in range(3)]
    load(*others)
    with pytest.raises(DataError, match=r"3 external answers asked for .* there are 2"):
        load(*others[:2])
    with pytest.raises(DataError, match="line 3: a measurement question"):
        load(*others[:2], (story(base.measure[0].prompt), "#### 1"))
    with pytest.raises(DataError, match="line 1: not the reference answer"):
        load((story(base.train[0].prompt), "#### -5"), *others)
    jsonl = TaskConfig(name="jsonl", data=own_rows(tmp_path / "rows.jsonl", 8), dev_size=3, test_size=4)
    with pytest.raises(UsageError, match="no worked answers of its own; give them with --cross-data"):
        load_problems(settings(task=jsonl, cross=CrossConfig(schedule="early")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--epochs", "0"), "selfimprove.epochs"),
        (("--samples", "1"), "selfimprove.samples"),
        (("--select", "oracle"), "selfimprove.select"),
        (("--cross", "sometimes"), "selfimprove.cross.schedule"),
        (("--cross-share", "1.5"), "selfimprove.cross.share"),
        (("--batch-size", "8", "--micro-batch", "3"), "no multiple of micro_batch 3"),
        (("--micro-batch", "0"), "selfimprove.train.micro_batch"),
        (("--select", "quality", "--max-new-tokens", "100000"), "positions of"),
        (("--measure-questions", "1"), "at least 2"),
        (("--task", "chess"), "task.name"),
    ],
)
def test_bad_options(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        main(["selfimprove", "--model", "zoo:solver-seed", "--task", "arithmetic", "--out", str(out), *arguments])
    captured = capsys.readouterr()
    assert (end.value.code, captured.out) == (2, "")
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not out.exists()
