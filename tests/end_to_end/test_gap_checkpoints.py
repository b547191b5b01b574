"""Measurements inside DPO stages with scripted parts: where, of what, once, and without a trace in the search."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from selfdev.cli import main
from selfdev.config import load_config
from selfdev.gap_records import Quantity, recorded, recorded_inside, recorded_points
from selfdev.generators.scripted import ScriptedGenerator
from selfdev.rundir import read_run_config
from selfdev.store import Store
from selfdev.trainers.base import read_report, step_directory
from selfdev.trainers.scripted import ScriptedTrainer
from selfdev.types import Sample, SampleRequest
from selfdev.verifiers.base import Judgement
from selfdev.verify import fitted, measure_inside
from tests.end_to_end.test_gap_run import command, opened, run
from tests.scripted import racing_parts, scripted_parts, write, write_spread

RATE = 0.7


def time_of(adapter: Path | None) -> float:
    """The time on the curve at which an adapter writes: 1 is the base, 2 the first stage's end."""
    if adapter is None:
        return 1.0
    stage = adapter.parent if adapter.name.startswith("step-") else adapter
    number = int(stage.name.rsplit("-", 1)[1])
    report = read_report(stage)
    assert report is not None
    if stage == adapter:
        return number + 1.0
    return number + share(int(adapter.name.rsplit("-", 1)[1]), report.steps)


def share(step: int, steps: int) -> float:
    """Of a learning rate that falls evenly: `step` trapezia of a triangle of steps, steps - 1, ..., 1."""
    return step * (2 * steps - step + 1) / (steps * (steps + 1))


class Exponential(ScriptedGenerator):
    """Samples of 100 tokens whose mean NLL is 20 + 30 e^(-0.7 t) but for a small part of their own."""

    def sample(self, prompt: str, requests: Sequence[SampleRequest], temperature: float) -> Iterator[list[Sample]]:
        level = 20 + 30 * exp(-RATE * time_of(self._adapter))
        for batch in super().sample(prompt, requests, temperature):
            yield [replace(s, nll=level + 0.01 * (s.seed % 11 - 5), tokens=100) for s in batch]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("checkpoints") / "run"
    parts = replace(racing_parts(4), generator=Exponential(write_spread))
    return path, run(path, parts, racing=True, iterations=3, **{"gap.checkpoints": 2})


def thirds(path: Path) -> list[tuple[int, int, int]]:
    """(iteration, step, steps of the stage) of every checkpoint."""
    found = []
    for iteration in (1, 2, 3):
        report = read_report(path / "checkpoints" / f"iteration-{iteration}")
        assert report is not None
        assert [c.step for c in report.checkpoints] == [round(report.steps / 3), round(2 * report.steps / 3)]
        found += [(iteration, c.step, report.steps) for c in report.checkpoints]
    return found


def test_samples_and_judgements_inside_every_stage(finished: tuple[Path, str]) -> None:
    store = opened(finished[0])
    points = thirds(finished[0])
    assert len(points) == 6
    every = [row for i in (1, 2, 3) for row in store.measured(i)]
    for iteration, step, steps in points:
        rows = store.measured(iteration, step)
        assert [row.index for row in rows] == list(range(20))
        assert [row.time for row in rows] == pytest.approx([iteration + share(step, steps)] * 20)
        assert {row.checkpoint for row in rows} == {f"checkpoints/iteration-{iteration}/step-{step}"}
        assert {row.temperature for row in rows} == {1.0}
        judged = store.measured_judgements(iteration, step)
        assert set(judged) == {"likelihood", "implicit-reward"}  # inside the first stage there is a reward already
        assert list(judged["implicit-reward"]) == [row.id for row in rows]
        every += rows
    assert len({row.sample_seed for row in every}) == len({row.id for row in every}) == len(every) == 9 * 20
    for i in (1, 2, 3):
        expected = [i + share(step, steps) for at, step, steps in points if at == i]
        assert list(store.measured_steps(i).values()) == pytest.approx(expected)
    assert {row["iteration"]: len(row["train"]["checkpoints"]) for row in store.iterations()} == {1: 2, 2: 2, 3: 2}
    assert all({"measure", "gap"} <= set(phases) for i, phases in store.seconds().items() if i > 0)
    store.close()


def test_the_points_can_be_recomputed_from_the_store(finished: tuple[Path, str]) -> None:
    store, config = opened(finished[0]), read_run_config(finished[0])
    for row in store.iterations():
        inside = recorded_inside(row["gap"])
        assert inside == measure_inside(store, config, row["iteration"])
        assert len(inside) == 2
        for time, found in inside.items():
            assert set(found) == {"likelihood", "implicit-reward"}
            solver = found["likelihood"].quantities["solver_nll"]
            assert solver.value == pytest.approx(20 + 30 * exp(-RATE * time), abs=0.05)
    store.close()


@pytest.mark.parametrize("checkpoints", [2, 50])
def test_measuring_changes_nothing_that_the_run_finds(tmp_path: Path, checkpoints: int) -> None:
    """All tables but those of the measurements are the same; where more points are asked for than steps, too."""
    run(tmp_path / "without", racing=True, iterations=3)
    run(tmp_path / "with", racing=True, iterations=3, **{"gap.checkpoints": checkpoints})
    without, with_them = opened(tmp_path / "without"), opened(tmp_path / "with")
    first, second = without.dump(), with_them.dump()
    changed = ("measured", "measured_judgement", "iteration")
    assert {name: rows for name, rows in first.items() if name not in changed} == {
        name: rows for name, rows in second.items() if name not in changed
    }
    for i in (1, 2, 3):
        assert without.measured(i) == with_them.measured(i)
        assert without.measured_judgements(i) == with_them.measured_judgements(i)
        assert not without.measured_steps(i)
        assert 1 < len(with_them.measured_steps(i)) <= checkpoints
    for a, b in zip(without.iterations(), with_them.iterations(), strict=True):
        assert recorded(a["gap"]) == recorded(b["gap"])
        assert a["train"] | {"checkpoints": None} == b["train"] | {"checkpoints": None}
        if checkpoints == 50:
            steps = b["train"]["steps"]
            assert [c["step"] for c in b["train"]["checkpoints"]] == list(range(1, steps))
    without.close()
    with_them.close()
    for algorithm in (tmp_path / "without" / "algorithms").rglob("*.py"):
        name = algorithm.relative_to(tmp_path / "without")
        assert (tmp_path / "with" / name).read_bytes() == algorithm.read_bytes()


def test_points_inside_an_iteration_that_no_verifier_judges_are_kept(tmp_path: Path) -> None:
    """The base has no reward yet; what is measured inside its training has."""
    run(tmp_path / "run", iterations=2, **{"gap.verifiers": ("implicit-reward",), "gap.checkpoints": 2})
    store, config = opened(tmp_path / "run"), read_run_config(tmp_path / "run")
    first, second = (row["gap"] for row in store.iterations())
    assert (first["verifiers"], first["samples"]) == ({}, 0)
    assert recorded_inside(first) == measure_inside(store, config, 1)
    assert len(recorded_inside(first)) == 1  # of two steps
    assert set(second["verifiers"]) == {"implicit-reward"}
    gaps, _ = recorded_points({row["iteration"]: row["gap"] for row in store.iterations()})
    assert [bool(found) for found in gaps.values()] == [False, True, True, *[True] * len(recorded_inside(second))]
    store.close()


def test_without_samples_for_measurement_nothing_is_measured_inside(tmp_path: Path) -> None:
    run(tmp_path / "run", iterations=1, **{"gap.samples": 0, "gap.checkpoints": 2})
    store = opened(tmp_path / "run")
    assert store.measured_steps(1) == {}
    assert store.iterations()[0]["train"]["checkpoints"] == []
    store.close()
    assert load_config(overrides={"gap.samples": 64, "gap.checkpoints": 2}).gap.drawn == 3 * 64
    assert load_config(overrides={"gap.samples": 1, "gap.checkpoints": 2}).gap.inside == 0


def test_what_was_drawn_inside_a_stage_is_not_drawn_again(tmp_path: Path) -> None:
    """The process dies at the tenth sample of the second checkpoint: whole batches stay, nothing is trained twice."""
    drawn: list[tuple[str, int]] = []

    def dying(index: int, temperature: float, adapter: Path | None) -> str:
        if adapter is not None and adapter.name.startswith("step-"):
            drawn.append((adapter.name, index))
            if len(drawn) == 30:
                raise KeyboardInterrupt
        return write(index, temperature, adapter)

    trained: list[Path] = []

    class Counting(ScriptedTrainer):
        def train(self, base: str, previous: Any, pairs: Any, out: Path, *others: Any, **named: Any) -> Any:
            trained.append(out)
            return super().train(base, previous, pairs, out, *others, **named)

    given = {"gap.checkpoints": 2, "iterations": 1, "pair.rejected_share": 0.5}
    parts = replace(scripted_parts(dying), trainer=Counting())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", parts, **given)
    run(tmp_path / "run", parts, **given)
    first, second = (f"step-{step}" for step in opened(tmp_path / "run").measured_steps(1))
    assert drawn == [(first, i) for i in range(20)] + [(second, i) for i in (*range(10), *range(8, 20))]
    assert len(trained) == 1
    run(tmp_path / "whole", **given)
    one, other = opened(tmp_path / "run"), opened(tmp_path / "whole")
    assert one.dump() == other.dump()
    one.close()
    other.close()


def test_what_was_judged_inside_a_stage_is_not_judged_again(tmp_path: Path) -> None:
    """The process dies at the second verifier of the second checkpoint; the next start asks only that one."""
    parts, asked = scripted_parts(), []

    @contextmanager
    def dying(names: Sequence[str], adapter: Path | None):
        asked.append((tuple(names), adapter and adapter.name))
        with parts.open_verifiers(names, adapter) as verifiers:
            if len(asked) == 3:

                def die(responses: object) -> list[Judgement]:
                    raise KeyboardInterrupt

                verifiers[1].score = die  # type: ignore[method-assign]
            yield verifiers

    given = {"gap.checkpoints": 2, "iterations": 1, "pair.rejected_share": 0.5}
    broken = replace(parts, open_verifiers=dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", broken, **given)
    run(tmp_path / "run", broken, **given)
    first, second = (f"step-{step}" for step in opened(tmp_path / "run").measured_steps(1))
    both = ("likelihood", "implicit-reward")
    assert asked == [(both[:1], None), (both, first), (both, second), (both[1:], second)]
    run(tmp_path / "whole", parts, **given)
    one, other = opened(tmp_path / "run"), opened(tmp_path / "whole")
    assert one.dump() == other.dump()
    one.close()
    other.close()


def test_a_start_that_dies_after_each_single_write_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start ends right behind its first write of a measurement, of an adapter or of the iteration's row."""
    given = {"gap.checkpoints": 2, "iterations": 1, "pair.rejected_share": 0.5, "gap.samples": 8}
    run(tmp_path / "whole", **given)
    done: list[str] = []

    def dying(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def wrapper(*arguments: Any, **named: Any) -> Any:
            real(*arguments, **named)
            done.append(name)
            raise KeyboardInterrupt

        monkeypatch.setattr(owner, name, wrapper)

    for name in ("add_measured", "add_judgements", "add_measured_judgements", "commit_iteration"):
        dying(Store, name)
    monkeypatch.setattr(ScriptedTrainer, "train", _once_and_die(ScriptedTrainer.train, done))
    starts = 0
    while starts < 40:
        starts += 1
        try:
            run(tmp_path / "run", **given)
            break
        except KeyboardInterrupt:
            continue
    # 8 samples in batches of 4 at three points; one stage; two verifiers at the two checkpoints, one before them
    assert done == [*["add_measured"] * 2, "train", *["add_measured"] * 4, "add_judgements",
                    *["add_measured_judgements"] * 5, "commit_iteration"]  # fmt: skip
    assert starts == len(done) + 1
    one, other = opened(tmp_path / "run"), opened(tmp_path / "whole")
    assert one.dump() == other.dump()
    one.close()
    other.close()


def _once_and_die(train: Any, done: list[str]) -> Any:
    """A trainer that finishes its stage and dies before it can tell."""

    def wrapper(*arguments: Any, **named: Any) -> Any:
        train(*arguments, **named)
        done.append("train")
        raise KeyboardInterrupt

    return wrapper


def test_a_changed_checkpoint_is_refused(tmp_path: Path) -> None:
    """The stage is trained, then the process dies, then somebody writes into an adapter."""

    def dying(index: int, temperature: float, adapter: Path | None) -> str:
        if adapter is not None:
            raise KeyboardInterrupt
        return write(index, temperature, adapter)

    given = {"gap.checkpoints": 2, "iterations": 1, "pair.rejected_share": 0.5}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", scripted_parts(dying), **given)
    stage = tmp_path / "run" / "checkpoints" / "iteration-1"
    report = read_report(stage)
    assert report is not None
    weights = step_directory(stage, report.checkpoints[1].step) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    from selfdev.errors import RunError

    with pytest.raises(RunError, match=r"the weights of .*step-\d+ are not those that were trained"):
        run(tmp_path / "run", **given)


# -- what is made of the points ---------------------------------------------------------------------------------------


def test_the_fit_takes_the_real_times(finished: tuple[Path, str]) -> None:
    """The planted rate comes back, and one more iteration is a whole one from the last iteration on."""
    store = opened(finished[0])
    gaps, gains = recorded_points({row["iteration"]: row["gap"] for row in store.iterations()})
    store.close()
    times = [1, *(i + share(step, steps) for i, step, steps in thirds(finished[0])), 2, 3]
    assert list(gaps) == pytest.approx(sorted(times))
    found = fitted(gaps, gains, "likelihood", 0.95)
    assert found is not None
    assert found.curve.times == pytest.approx(tuple(sorted(times)))
    assert found.fit.rate.value == pytest.approx(RATE, rel=0.02)
    assert found.fit.now == 3
    assert found.fit.next_gain.value == pytest.approx(30 * (exp(-3 * RATE) - exp(-4 * RATE)), rel=0.02)
    assert [value is not None for value in found.curve.score or ()] == [time == int(time) for time in sorted(times)]
    alone = fitted({i: gaps[i] for i in (1, 2, 3)}, gains, "likelihood", 0.95)
    assert alone is not None
    # the same gain is told, and told more closely
    assert found.fit.next_gain.value == pytest.approx(alone.fit.next_gain.value, rel=0.05)
    assert found.fit.next_gain.high - found.fit.next_gain.low < alone.fit.next_gain.high - alone.fit.next_gain.low


def test_a_curve_without_an_iteration_counts_from_its_last_point() -> None:
    """One iteration only, and a verifier that begins inside it."""
    quantity = {t: Quantity(20 + 30 * exp(-RATE * t), se=0.01) for t in (1.25, 1.5, 1.75)}
    from tests.unit.test_gap import gap_of

    gaps = {
        t: {
            "v": replace(
                gap_of(0, 0), quantities={"solver_nll": q, "verifier_nll": replace(q, value=(q.value or 0) / 2)}
            )
        }
        for t, q in quantity.items()
    }
    found = fitted(gaps, {1: Quantity(0.1, se=0.1)}, "v", 0.95)
    assert found is not None
    assert (found.fit.now, found.alarm, found.curve.score) == (1.75, None, None)


def test_the_command_shows_plots_and_writes_them(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, finished[0], "--plot", tmp_path / "gap.svg", "--csv", tmp_path / "gap.csv")
    assert (code, err) == (0, "")
    inside = sorted(i + share(step, steps) for i, step, steps in thirds(finished[0]))
    for time in inside:
        assert f" {time:.2f}".rstrip("0") + " likelihood " in out
        assert f" {time:.2f}".rstrip("0") + " implicit-reward " in out
    for part in ("likelihood: 9 points, one rate", "implicit-reward: 8 points, one rate", "from time 3 on",
                 "Between whole numbers: inside a DPO stage, by its learning rates", "held-out forecast",
                 f"curves: {tmp_path / 'gap.csv'}"):  # fmt: skip
        assert part in out, part
    circles = ElementTree.parse(tmp_path / "gap.svg").getroot().iter("{http://www.w3.org/2000/svg}circle")
    assert len(list(circles)) == (9 + 8) * 3 + (3 + 2) * 2  # three uncertainties; gains at the iterations only
    with (tmp_path / "gap.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["time"]) for row in rows[:9]] == pytest.approx(sorted([1, 2, 3, *inside]))
    assert [bool(row["score"]) for row in rows[:9]] == [float(row["time"]).is_integer() for row in rows[:9]]
    with pytest.raises(SystemExit):
        main(["gap", str(finished[0]), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert [row["iteration"] for row in shown["iterations"]] == [1, 2, 3]
    assert [point["time"] for point in shown["inside"]] == pytest.approx(inside)
    assert shown["inside"][0]["verifiers"]["likelihood"]["solver_nll"]["se"] > 0
    with pytest.raises(SystemExit):
        main(["gap", "fit", str(tmp_path / "gap.csv"), "--json"])
    again = json.loads(capsys.readouterr().out)["curves"]
    assert [curve["name"] for curve in again] == ["likelihood", "implicit-reward"]
    for curve in again:
        one = shown["fits"][curve["name"]]["one_rate"]["rate"]
        assert curve["one_rate"]["rate"] == {end: pytest.approx(one[end], rel=1e-5) for end in one}
        told = shown["fits"][curve["name"]]["alarm"]
        assert curve["alarm"] == {name: pytest.approx(value, rel=1e-5) for name, value in told.items()}


def test_other_settings_need_no_new_samples(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, finished[0], "--n", 2)
    assert code == 0
    assert "likelihood: 9 points, one rate" in out


def test_the_tables_of_the_run_have_them(finished: tuple[Path, str]) -> None:
    assert finished[1].count("inside the DPO stage, at 1.") >= 2
    assert "Between whole numbers: inside a DPO stage" in " ".join(finished[1].split())


@pytest.mark.parametrize(("checkpoints", "ended"), [(0, 4), (2, 4)])
def test_a_run_that_learns_is_not_stopped_by_more_points(tmp_path: Path, checkpoints: int, ended: int) -> None:
    """From 3 to 4 there are 2.3 nats to gain, and 1 % of the drop is 0.1: it goes on, however many points there are."""
    parts = replace(scripted_parts(), generator=Exponential(write))
    given = {"iterations": 4, "gap.stop_when_converged": True, "gap.checkpoints": checkpoints}
    run(tmp_path / "run", parts, **given)
    store = opened(tmp_path / "run")
    assert len(store.iterations()) == ended
    store.close()


def test_a_run_that_has_levelled_off_is_stopped(tmp_path: Path) -> None:
    class Fast(Exponential):
        def sample(self, prompt: str, requests: Sequence[SampleRequest], temperature: float) -> Iterator[list[Sample]]:
            level = 20 + 900 * exp(-4.0 * time_of(self._adapter))
            for batch in ScriptedGenerator.sample(self, prompt, requests, temperature):
                yield [replace(s, nll=level + 0.01 * (s.seed % 11 - 5), tokens=100) for s in batch]

    parts = replace(scripted_parts(), generator=Fast(write))
    run(tmp_path / "run", parts, iterations=5, **{"gap.stop_when_converged": True, "gap.checkpoints": 2})
    store = opened(tmp_path / "run")
    assert store.stopped_after() == 3
    store.close()
