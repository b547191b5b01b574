"""The gap of a run with scripted parts: judged once, measured from the store, shown, and ended by it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import exp
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from selfdev import loop
from selfdev.cli import main
from selfdev.config import load_config
from selfdev.controls import control
from selfdev.dynamics import Advice
from selfdev.errors import UsageError
from selfdev.evaluation import Run
from selfdev.gap_records import WORDS, Gap, Quantity, recorded
from selfdev.generators.scripted import ScriptedGenerator
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory, read_run_config
from selfdev.store import STOPPED, Store
from selfdev.types import Sample, SampleRequest
from selfdev.verifiers.base import Judgement
from selfdev.verify import fitted, gain_over_seed, measure_iteration, shared_verdicts
from selfdev.wiring import Parts
from tests.scripted import (
    learned_by,
    racing_config,
    racing_parts,
    scripted_config,
    scripted_parts,
    write,
    write_spread,
)


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


class Levelling(ScriptedGenerator):
    """The base writes at 40 nats, every trained generator at 10: what was to be learned is learned at once."""

    level = (40.0, 10.0)

    def sample(self, prompt: str, requests: Sequence[SampleRequest], temperature: float) -> Iterator[list[Sample]]:
        for batch in super().sample(prompt, requests, temperature):
            yield [
                replace(s, nll=self.level[self._adapter is not None] + 0.1 * (s.index % 7), tokens=100) for s in batch
            ]


class Falling(Levelling):
    """Every training takes 5 nats more."""

    def sample(self, prompt: str, requests: Sequence[SampleRequest], temperature: float) -> Iterator[list[Sample]]:
        self.level = (40.0, 40.0 - 5 * learned_by(self._adapter))
        return super().sample(prompt, requests, temperature)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("gap") / "run"
    return path, run(path, replace(racing_parts(5), generator=Falling(write_spread)), racing=True, iterations=4)


def test_every_sample_is_judged(finished: tuple[Path, str]) -> None:
    store = opened(finished[0])
    first, second = store.judgements(1), store.judgements(2)
    assert set(first) == {"likelihood"}  # before the first training there is no implicit reward
    assert set(second) == {"likelihood", "implicit-reward"}
    ids = [row.id for row in store.candidates(2, "generated")]
    assert list(second["implicit-reward"]) == list(second["likelihood"]) == ids
    row = store.candidates(1, "generated")[0]
    assert first["likelihood"][row.id] == Judgement(pytest.approx(exp(-row.nll / row.tokens)), row.nll)
    looked, judged = store.measured(2), store.measured_judgements(2)
    assert {row.temperature for row in looked} == {1.0}
    assert {row.checkpoint for row in looked} == {row.checkpoint for row in store.candidates(2, "generated")}
    assert list(judged["implicit-reward"]) == list(judged["likelihood"]) == [row.id for row in looked]
    assert [row.index for row in looked] == list(range(20))
    assert not {row.id for row in looked} & {row.id for row in store.candidates()}
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
    store, config = opened(finished[0]), read_run_config(finished[0])
    reference, verdicts = shared_verdicts(store, config, 1)
    scored = [c for c in store.scored(1) if c.id in verdicts]
    gap = recorded(store.iterations()[0]["gap"])[0]["likelihood"]
    assert (gap.samples, gap.scored, gap.questions) == (20, len(scored), 8)
    assert reference == store.seed_verdicts(1)[:8]
    assert {c.id: sum(verdicts[c.id]) for c in scored if c.duplicate_of is None} == {
        c.id: c.opening_correct for c in scored if c.duplicate_of is None
    }
    mean = sum(sum(v) for v in verdicts.values()) / len(verdicts) / 8
    assert gap.quantities["solver_score"].value == pytest.approx(mean)
    store.close()


def test_a_repeat_of_an_earlier_program_has_no_score_on_new_questions(tmp_path: Path) -> None:
    """The generator writes the same in every iteration; and the seed, which has answered all questions."""

    def same(index: int, temperature: float, adapter: Path | None) -> str:
        start = "import torch\n\n\ndef merge_models(task_vectors):\n"
        return f"{start}    return {index}  # quality 0.{index + 10}\n```"

    parts = replace(racing_parts(3), generator=ScriptedGenerator(same))
    run(tmp_path / "run", parts, racing=True, iterations=2)
    store, config = opened(tmp_path / "run"), read_run_config(tmp_path / "run")
    repeats = [row for row in store.candidates(2, "generated") if row.duplicate_of is not None]
    assert len(repeats) == 20
    assert any(c.opening_correct is not None for c in store.scored(2))  # the earlier program's, on its own questions
    assert shared_verdicts(store, config, 2)[1] == {}
    gap = recorded(store.iterations()[1]["gap"])[0]["likelihood"]
    assert (gap.samples, gap.scored, gap.quantities["solver_score"].value) == (20, 0, None)
    assert gap.quantities["solver_valid"].value == 1
    store.close()


def test_the_tables_are_shown(finished: tuple[Path, str]) -> None:
    for part in ("solver-verifier gap, best of 16 by likelihood: dev score", "uncertainty, nats", "implicit-reward",
                 "programs beside the seed", "gain over the seed of a program that ran", "AUC"):  # fmt: skip
        assert part in finished[1], part


def test_what_was_judged_is_not_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    code, out, _ = command(capsys, "run", path, "--csv", tmp_path / "none.csv")
    assert code == 0
    assert "curves: none has three points at one temperature; not written: " in out
    assert not (tmp_path / "none.csv").exists()
    assert "likelihood: 2 points with U_s and U_v; a fit needs three implicit" in out
    assert "implicit-reward: 1 point with U_s and U_v; a fit needs three; its first is behind the first" in out


def test_a_measurement_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    """The process dies at the tenth sample for measurement: two whole batches stay; the store ends the same."""
    drawn: list[int] = []

    def dying(index: int, temperature: float, adapter: Path | None) -> str:
        if temperature == 1.0 and adapter is None:
            drawn.append(index)
            if len(drawn) == 10:
                raise KeyboardInterrupt
        return write(index, temperature, adapter)

    parts = scripted_parts(dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", parts, iterations=1)
    store = opened(tmp_path / "run")
    assert len(store.measured(1)) == 8
    store.close()
    run(tmp_path / "run", parts, iterations=1)
    assert drawn == [*range(10), *range(8, 20)]
    run(tmp_path / "whole", iterations=1)
    first, second = opened(tmp_path / "run"), opened(tmp_path / "whole")
    assert first.dump() == second.dump()
    first.close()
    second.close()


def test_rows_of_earlier_versions_are_shown(tmp_path: Path) -> None:
    from selfdev.report.gap import gap_text

    old = {"samples": 9, "n": 4, "solver_score": 0.5, "verifier_score": 0.6, "score_gap": 0.1, "solver_nll": 20.0,
           "verifier_nll": 15.0, "nll_gap": 5.0, "solver_nll_per_token": 0.2,
           "verifier_nll_per_token": 0.1}  # fmt: skip
    assert "dev score 0.600 (best of 4 of 9 by own likelihood) - 0.500 (mean) = +0.100" in gap_text(old).plain
    assert recorded(old) == recorded({}) == recorded({"verifiers": {}, "gain": []}) == ({}, Quantity(None))
    assert json.loads(json.dumps(old)) == old


# -- selfdev gap RUN --------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output in one line, standard error) of `selfdev gap`."""
    with pytest.raises(SystemExit) as end:
        main(["gap", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(end.value.code or 0), " ".join(captured.out.split()), captured.err


def test_tables_fits_and_a_plot(finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, finished[0], "--plot", tmp_path / "gap.svg")
    assert (code, err) == (0, "")
    for part in ("solver-verifier gap: uncertainty, nats", "4 implicit-reward", "likelihood: 4 points, one rate",
                 "noise: given standard errors", "advice: ", "alarm: ", "4 points: 1 more than an exponential has",
                 "implicit-reward: 3 points", "20 samples drawn at temperature 1;",
                 "on 8 questions that all"):  # fmt: skip
        assert part in out, part
    drawing = ElementTree.parse(tmp_path / "gap.svg").getroot()
    texts = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "likelihood: gain over the seed" in texts
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}circle"))) == 4 * 5 + 3 * 5


def test_json_has_everything(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gap", str(finished[0]), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert [row["iteration"] for row in record["iterations"]] == [1, 2, 3, 4]
    second = record["iterations"][1]["verifiers"]
    assert set(second) == {"likelihood", "implicit-reward"}
    found = second["likelihood"]["score_gap"]
    assert found["low"] < found["value"] < found["high"]
    assert set(second["likelihood"]) >= set(WORDS) - {"brier"}
    fit = record["fits"]["likelihood"]
    assert fit["points"] == 4
    assert fit["advice"] in ("continue", "stop", "alarm", "unclear")
    assert set(fit["one_rate"]["next_gain"]) == {"value", "low", "high"}
    assert record["stopped"] is None


def test_other_settings_need_no_new_judgements(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, finished[0], "--n", 2, "--threshold", 0)
    assert code == 0
    assert "N: 2, of all drawn" in out


def test_what_the_row_holds_is_not_measured_again(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("must not be called")

    monkeypatch.setattr("selfdev.verify.measure", refuse)
    assert command(capsys, finished[0])[0] == 0
    with pytest.raises(AssertionError, match="must not be called"):
        main(["gap", str(finished[0]), "--n", "2"])


def test_a_schedule_without_samples_for_measurement_has_no_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "run", iterations=3, **{"gap.samples": 0})
    _, out, _ = command(capsys, tmp_path / "run")
    assert "likelihood: no fit: U_s and U_v are of programs drawn at temperatures 1.2, 1, 0.857, and colder" in out
    assert "samples drawn at temperatures (colder: lower NLL without learning) 1.2, 1, 0.857" in out
    assert "one rate" not in out
    run(tmp_path / "flat", iterations=3, **{"gap.samples": 0, "generate.decay": 0.0})
    assert "likelihood: 3 points, one rate" in command(capsys, tmp_path / "flat")[1]


def test_the_first_word_is_a_run_or_a_command(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished[0].parent)
    assert command(capsys, "run", "run")[0] == 0  # the command, then a folder of that name
    assert command(capsys, "./run")[0] == 0
    code, _, err = command(capsys, "./nothing")
    assert code == 1
    assert "is not a run directory" in err
    code, _, err = command(capsys, "fitt")
    assert code == 2
    assert "No such command 'fitt'" in err


# -- ending early -----------------------------------------------------------------------------------------------------


def test_a_converged_run_ends_early_and_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything behind the loop works with three iterations instead of four; nothing is decided twice."""
    monkeypatch.setattr("selfdev.verify.advise", lambda fit, alarm: Advice.STOP)
    path, given = tmp_path / "run", {"iterations": 4, "gap.stop_when_converged": True}
    text = run(path, racing=True, **given)
    store = opened(path)
    assert [row["iteration"] for row in store.iterations()] == [1, 2, 3]
    assert store.stopped_after() == 3
    assert store.get_meta(STOPPED) == "3: stop: the next gain is below the tolerance (by likelihood)"
    assert "winner" in store.winners()
    assert {row.iteration for row in store.candidates()} == {0, 1, 2, 3}
    before = store.dump()
    store.close()
    assert "the run ended early, after iteration 3: stop: the next gain" in " ".join(text.split())

    def refuse(*_: object) -> str:
        raise AssertionError("must not be called")

    monkeypatch.setattr("selfdev.verify.advise", refuse)  # the decision is not taken again
    run(path, replace(racing_parts(5), generator=ScriptedGenerator(refuse)), racing=True, **given)
    again = opened(path)
    assert again.dump() == before
    again.close()
    config = racing_config(**given)
    with RunDirectory(path, config) as directory:
        directory.begin()
        control(Run(config, directory, racing_parts(5), RunView(Console(quiet=True))), "random")
        assert {row.iteration for row in directory.store.candidates(kind="random")} == {1, 2, 3}


def test_a_decision_lost_in_a_crash_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies between the third iteration's end and the decision."""
    given = {"iterations": 4, "gap.stop_when_converged": True}

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("selfdev.verify.advise", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", racing=True, **given)
    monkeypatch.setattr("selfdev.verify.advise", lambda fit, alarm: Advice.ALARM)
    run(tmp_path / "run", racing=True, **given)
    store = opened(tmp_path / "run")
    assert store.stopped_after() == len(store.iterations()) == 3
    store.close()


@pytest.mark.parametrize(("generator", "ended"), [(Levelling, 3), (Falling, 5)])
def test_the_measured_curve_decides(tmp_path: Path, generator: type[Levelling], ended: int) -> None:
    """A run of five iterations ends after the third where nothing more is learned, and goes on where something is."""
    given = {"iterations": 5, "gap.stop_when_converged": True, "gap.verifiers": ["implicit-reward", "likelihood"]}
    text = run(tmp_path / "run", replace(scripted_parts(), generator=generator(write)), **given)
    store = opened(tmp_path / "run")
    assert len(store.iterations()) == ended
    reason = "3: stop: the next gain is below the tolerance (by likelihood)"
    assert store.get_meta(STOPPED) == (reason if ended == 3 else None)
    looks = [line for line in text.splitlines() if line.startswith(("the run ends", "the run goes on"))]
    if ended == 3:
        assert looks == [f"the run ends after iteration {reason}"]
    else:
        assert [line.partition(":")[0] for line in looks] == [f"the run goes on after iteration {i}" for i in (3, 4)]
        assert all(line.endswith("(by likelihood)") for line in looks)
    store.close()


def test_every_look_has_its_share_of_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def remember(gaps: object, gains: object, name: str, confidence: float, level: float) -> None:
        looked.append((name, confidence, level))

    monkeypatch.setattr("selfdev.verify.fitted", remember)
    run(tmp_path / "run", iterations=7, **{"gap.stop_when_converged": True})
    assert looked == [("likelihood", pytest.approx(1 - 0.05 / 4), pytest.approx(0.05 / 4))] * 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"iterations": 3}, "needs iterations of 4 or more, got 3"),
        ({"gap.verifiers": ["implicit-reward", "majority"]}, "needs one of likelihood, true-false, quality"),
        ({"gap.samples": 0}, "with gap.samples 0 and generate.decay 0.2: U_s and U_v of the programs follow"),
    ],
)
def test_a_stop_that_cannot_be_decided_is_refused(given: dict[str, object], said: str) -> None:
    stop = {"iterations": 4, "gap.stop_when_converged": True}
    with pytest.raises(UsageError, match=re.escape(said)):
        load_config(overrides=stop | given)
    assert load_config(overrides=stop | {"gap.samples": 0, "generate.decay": 0}).gap.stop_when_converged


@pytest.mark.parametrize(
    ("score", "advice"), [((0.5, 0.5, 0.5, 0.5), Advice.STOP), ((0.3, 0.5, 0.35, 0.2), Advice.ALARM)]
)
def test_advice_of_measured_curves(score: Sequence[float], advice: Advice) -> None:
    """A curve that has levelled off; and one whose score falls while the verifier goes on praising itself."""

    def gap(i: int) -> Gap:
        u_s, u_v = (Quantity(limit * (1 + 0.5 * exp(-3 * i)), se=0.002) for limit in (20, 10))
        return Gap("likelihood", 20, 20, 8, 20, 20, 4, 1.0, {"solver_nll": u_s, "verifier_nll": u_v}, correlation=0.2)

    gains = {i + 1: Quantity(score[i], se=0.02) for i in range(4)}
    found = fitted({i + 1: {"likelihood": gap(i)} for i in range(4)}, gains, "likelihood", 0.95)
    assert found is not None
    assert found.advice is advice
