"""The gap of a run with scripted parts: judged once, measured from the store, shown, and ended by it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import exp
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from selfdev import loop
from selfdev.cli import main
from selfdev.controls import control
from selfdev.dynamics import Advice
from selfdev.evaluation import Run
from selfdev.gap_records import WORDS, Gap, Quantity, recorded
from selfdev.generators.scripted import ScriptedGenerator
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory, read_run_config
from selfdev.store import STOPPED, Store
from selfdev.verifiers.base import Judgement
from selfdev.verify import fitted, gain_over_seed, measure_iteration
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
    return path, run(path, racing=True, iterations=4)


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
    code, out, _ = command(capsys, "run", path)
    assert code == 0
    assert "likelihood: 2 iterations measured; a fit needs three" in out


def test_rows_of_earlier_versions_are_shown(tmp_path: Path) -> None:
    from selfdev.report.gap import gap_text

    old = {"samples": 9, "n": 4, "solver_score": 0.5, "verifier_score": 0.6, "score_gap": 0.1, "solver_nll": 20.0,
           "verifier_nll": 15.0, "nll_gap": 5.0, "solver_nll_per_token": 0.2,
           "verifier_nll_per_token": 0.1}  # fmt: skip
    assert "dev score 0.600 (best of 4 of 9 by own likelihood) - 0.500 (mean) = +0.100" in gap_text(old).plain
    assert recorded(old) == recorded({}) == ({}, Quantity(None))
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
                 "implicit-reward: 3 points", "temperatures 1.2, 1, 0.857, 0.75"):  # fmt: skip
        assert part in out, part
    drawing = ElementTree.parse(tmp_path / "gap.svg").getroot()
    texts = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "likelihood: dev score" in texts
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
    assert set(second["likelihood"]) >= set(WORDS)
    fit = record["fits"]["likelihood"]
    assert fit["points"] == 4
    assert fit["advice"] in ("continue", "stop", "alarm", "unclear")
    assert set(fit["one_rate"]["next_gain"]) == {"value", "low", "high"}
    assert record["stopped"] is None


def test_other_settings_need_no_new_judgements(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, finished[0], "--n", 2, "--threshold", 0)
    assert code == 0
    assert "N: 2. AUC" in out


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


@pytest.mark.parametrize(
    ("score", "advice"), [((0.5, 0.5, 0.5, 0.5), Advice.STOP), ((0.3, 0.5, 0.35, 0.2), Advice.ALARM)]
)
def test_advice_of_measured_curves(score: Sequence[float], advice: Advice) -> None:
    """A curve that has levelled off; and one whose score falls while the verifier goes on praising itself."""

    def gap(i: int) -> Gap:
        u_s, u_v = (Quantity(limit * (1 + 0.5 * exp(-3 * i)), se=0.002) for limit in (20, 10))
        return Gap("likelihood", 20, 20, 20, 4, {"solver_nll": u_s, "verifier_nll": u_v}, correlation=0.2)

    gains = {i + 1: Quantity(score[i], se=0.02) for i in range(4)}
    found = fitted({i + 1: {"likelihood": gap(i)} for i in range(4)}, gains, "likelihood", 0.95)
    assert found is not None
    assert found.advice is advice
