"""`selfdev gap`: what is printed and written, and one clear line for every kind of bad file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from selfdev.cli import main

SCORED = """iteration,solver,verifier,score,score_se
0,30,23,0.40,0.01
1,26.8,21.3,0.50,0.01
2,24.4,20.3,0.60,0.01
3,23.1,19.5,0.50,0.01
4,22.0,19.1,0.40,0.01
5,21.4,18.6,0.30,0.01
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command."""
    with pytest.raises(SystemExit) as end:
        main(["gap", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def simulated(capsys: pytest.CaptureFixture[str], path: Path, *arguments: object) -> Path:
    code, out, err = run(capsys, "simulate", "--output", path, *arguments)
    assert (code, err) == (0, "")
    assert out == f"curves: {path}\n"
    return path


def fitted(capsys: pytest.CaptureFixture[str], path: Path, *arguments: object) -> dict[str, Any]:
    code, out, err = run(capsys, "fit", path, "--json", *arguments)
    assert (code, err) == (0, "")
    record: dict[str, Any] = json.loads(out)
    return record


def test_what_is_simulated_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = simulated(capsys, tmp_path / "curves.csv", "--noise", 0.01, "--correlation", 0.5, "--seed", 5)
    [curve] = fitted(capsys, path)["curves"]
    assert (curve["points"], curve["noise"]) == (21, "given")
    for name, planted in {"rate": 0.4, "ratio": 2.0, "gap_limit": 2.0, "solver_limit": 20.0}.items():
        found = curve["one_rate"][name]
        assert found["low"] <= planted <= found["high"]
        assert found["value"] == pytest.approx(planted, rel=0.05)
    assert curve["forecasts"][-1]["model"] == "persistence"
    assert curve["advice"] == "stop"
    assert curve["equal_rates_p"] > 0.01


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(SCORED.replace("score_se", "score_se,comment").replace(",0.01\n", ",0.01,x\n"), encoding="utf-8")
    code, out, err = run(capsys, "fit", path)
    text = " ".join(out.split())
    assert (code, err) == (0, "")
    assert "6 points, one rate; noise: scatter around the fit" in text
    assert "alpha / beta" in text
    assert "held-out forecast" in text
    assert "ALARM: after a rise, the score falls by 0.3 from time 2 on" in text
    assert "advice: stop: the score falls while self-assessed quality rises" in text
    assert "columns that no fit needs: comment" in text


def test_three_points_are_told_what_they_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = simulated(capsys, tmp_path / "three.csv", "--points", 3, "--until", 2)
    code, out, _ = run(capsys, "fit", path)
    text = " ".join(out.split())
    assert code == 0
    assert "not told" in text
    assert "3 points tell the direction" in text
    [curve] = fitted(capsys, path)["curves"]
    assert curve["one_rate"]["rate"]["high"] is None
    assert curve["advice"] == "unclear"


def test_settings_and_seeds_are_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["setting,seed,epoch,solver,verifier"]
    for setting, seed in (("math", 1), ("math", 2), ("gsm8k", 1)):
        single = simulated(capsys, tmp_path / "one.csv", "--points", 8, "--noise", 0.02, "--seed", seed)
        with single.open(encoding="utf-8") as stream:
            rows += [f"{setting},{seed},{r['time']},{r['solver']},{r['verifier']}" for r in csv.DictReader(stream)]
    path = tmp_path / "all.csv"
    path.write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n", encoding="utf-8")  # any order
    names = [curve["name"] for curve in fitted(capsys, path)["curves"]]
    assert names == ["gsm8k, seed 1", "math, seed 2", "math, seed 1"]
    code, out, _ = run(capsys, "fit", path)
    assert code == 0
    assert "math: 2 seeds" in out
    assert "gsm8k: 1 seeds" not in out


def test_outside_verification(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "simulate", "--external", "1,0,0", "--gamma", 0.25, "--beta", 0, "--k", 0.4, "--b", 0)
    lines = out.splitlines()
    assert code == 0
    assert lines[:2] == ["time,solver,verifier", "0,30,23"]
    assert len(lines) == 5
    assert lines[2].endswith(",18.4")  # 23 / 1.25, and it stays: beta is 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "column 'solver' is missing; found columns: none"),
        ("epoch,solver\n1,2\n", "column 'verifier' is missing; found columns: epoch, solver"),
        ("solver,verifier\n1,2\n", "column 'time' (or 'epoch', 'iteration') is missing"),
        ("time,solver,verifier\n", "holds no rows"),
        ("time,solver,solver,verifier\n0,1,1,1\n", "column 'solver' occurs twice"),
        ("time,solver,verifier\n0,1,2\n1,x,2\n", "line 3: column 'solver' holds 'x'; a finite number"),
        ("time,solver,verifier\n0,1,nan\n", "line 2: column 'verifier' holds 'nan'"),
        ("time,solver,verifier\n0,1\n", "line 2: column 'verifier' holds None"),
        ("time,solver,verifier\n0,1,2,3\n", "line 2: more values than columns"),
        ("time,solver,verifier\n0,1,2\n1,1,2\n", "2 points: need at least 3"),
        ("time,solver,verifier\n0,1,2\n1,1,2\n1,1,2\n", "is a column setting or seed missing?"),
        ("time,solver,verifier,solver_se\n0,3,2,1\n1,2,2,1\n2,1,2,1\n", "standard errors of both"),
        ("time,solver,verifier,correlation\n0,3,2,0\n1,2,2,0.5\n2,1,2,0\n", "one correlation per curve"),
    ],
)
def test_bad_files(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(text, encoding="utf-8")
    code, out, err = run(capsys, "fit", path)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "fit", tmp_path / "none.csv")
    assert (code, "no file" in err) == (1, True)
    assert run(capsys, "fit", tmp_path)[0] == 1
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    code, _, err = run(capsys, "fit", tmp_path / "binary.csv")
    assert (code, err.count("\n")) == (1, 1)
    assert err.endswith("binary.csv is no text in UTF-8; give a .csv file with the columns time, solver, verifier\n")
    (tmp_path / "zeros.csv").write_bytes(b"time,solver,verifier\n\x00")
    assert "is no text in UTF-8" in run(capsys, "fit", tmp_path / "zeros.csv")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "x.csv", "--step", 0),
        ("fit", "x.csv", "--tolerance", -1),
        ("fit", "x.csv", "--confidence", 95),
        ("simulate", "--beta", 2),
        ("simulate", "--points", 2),
        ("simulate", "--until", 0),
        ("simulate", "--noise", -1),
        ("simulate", "--external", "a,b"),
        ("simulate", "--external", "2,0"),
    ],
)
def test_bad_options(arguments: tuple[object, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("selfdev: ")
    assert err.count("\n") == 1
