"""Our verdicts against those of lm-eval's own code, row by row; every disagreement is printed.

    python benchmarks/compare_grading.py --task gsm8k|math --lm-eval-python PATH --completions FILE.jsonl
    python benchmarks/compare_grading.py --task gsm8k|math --lm-eval-python PATH --case-table [--update]

lm-eval (with its extra `math`) lies in an environment of its own, whose interpreter PATH names. The file has the
fields id, completion, gold. With --case-table the rows are those of tests/unit/grading/TASK.json, whose frozen verdicts
must be lm-eval's; --update writes them anew (columns of the search's own grader stay). The result file names rows by id
and holds no text of theirs. To be run on an idle machine: math-verify and lm-eval give up after 5 s by the clock.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "sandbox")]

import record  # noqa: E402
from lm_eval_verdicts import versions  # noqa: E402

from selfdev.cli.grade import Row, read_rows  # noqa: E402
from selfdev.errors import SelfdevError, StageError  # noqa: E402
from selfdev.grading import Grade, gold_of, grade_all, load_grader  # noqa: E402
from selfdev.grading.math import solution_of  # noqa: E402
from selfdev.grading.processes import Limits, Pool, Stopped, shared_pool  # noqa: E402

COLUMNS = {
    "gsm8k": {"strict": "gsm8k-strict", "flexible": "gsm8k-flexible"},
    "math": {"minerva": "math-minerva", "verify": "math-verify", "hendrycks": "math-hendrycks"},
}  # a verdict of lm-eval's -> our grader that must equal it
OWN = {"math": ("math", "verify")}  # the search's grader, and the verdict that it departs from on purpose
TABLES = HERE.parent / "tests" / "unit" / "grading"
LM_EVAL = Limits(seconds=60.0, memory=32 << 30, jobs=100_000, start_seconds=300.0)

Verdicts = dict[str, Any]  # column -> what `lm_eval_verdicts` gives for it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(COLUMNS), required=True)
    parser.add_argument("--lm-eval-python", type=Path, required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--completions", type=Path)
    source.add_argument("--case-table", action="store_true")
    parser.add_argument("--update", action="store_true", help="write lm-eval's verdicts into the case table")
    parser.add_argument("--label", default="", help="added to the name of the result file")
    arguments = parser.parse_args()
    if arguments.update and not arguments.case_table:
        parser.error("--update goes with --case-table")
    if not os.access(arguments.lm_eval_python, os.X_OK):
        parser.error(f"--lm-eval-python {arguments.lm_eval_python}: no such program")
    try:
        sys.exit(compare(arguments))
    except SelfdevError as error:
        sys.exit(f"compare_grading: {error}")


def compare(arguments: argparse.Namespace) -> int:
    """The exit code: 0 if every verdict is lm-eval's."""
    task: str = arguments.task
    path = TABLES / f"{task}.json" if arguments.case_table else arguments.completions
    cases = json.loads(path.read_text(encoding="utf-8")) if arguments.case_table else []
    rows = list(case_rows(cases)) if arguments.case_table else read_rows(path)
    pool = Pool(
        f"benchmarks.lm_eval_verdicts:{task}_functions", limits=LM_EVAL, size=2, python=(str(arguments.lm_eval_python),)
    )
    begin = time.perf_counter()
    theirs = lm_eval_verdicts(pool, task, rows)
    results: dict[str, Any] = {
        "task": task,
        "rows": len(rows),
        "source": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "versions": {"lm-eval": pool.ask("versions")[0], "ours": versions()},
        "lm_eval_seconds": round(time.perf_counter() - begin, 1),
    }
    pool.close()
    if arguments.update:
        update(path, cases, theirs)
        return 0
    results |= {"graders": {}, "seconds": {}}
    for column, name in COLUMNS[task].items():
        ours = grade(name, rows, results)
        results["graders"][name] = agreement(rows, name, ours, [_correct(v, column) for v in theirs])
    for name, column in [OWN[task]] if task in OWN else []:
        ours = grade(name, rows, results)
        results["search_grader"] = agreement(rows, name, ours, [_correct(v, column) for v in theirs])
    wrong = sum(len(row["disagreements"]) for row in results["graders"].values())
    wrong += sum(_frozen_differs(case, found) for case, found in zip(cases, theirs, strict=False))
    results["scorer_processes"] = {k: getattr(shared_pool().counts, k) for k in ("started", "timed_out", "died")}
    print(f"{wrong} verdicts are not lm-eval's")
    sys.argv[1:] = [Path(argument).name if os.sep in argument else argument for argument in sys.argv[1:]]
    name = "_".join(filter(None, ["compare_grading", task, "cases" if cases else arguments.label]))
    print(f"wrote {record.write(name, results)}")
    return 1 if wrong else 0


def case_rows(cases: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """Rows of a case table, named by their number in it."""
    for number, case in enumerate(cases, start=1):
        yield Row(number, f"case-{number}", case["output"], case["gold"], None)


def lm_eval_verdicts(pool: Pool, task: str, rows: Sequence[Row]) -> list[Verdicts | None]:
    """Per row; None where lm-eval failed or was stopped."""

    def ask(row: Row) -> Verdicts | None:
        reference = solution_of(row.gold) if task == "math" else row.gold
        try:
            verdicts: Verdicts = pool.ask("verdicts", reference, row.completion)[0]
        except Stopped as error:
            print(f"{row.id}: lm-eval gives no verdict: {error}")
            return None
        return verdicts

    with ThreadPoolExecutor(pool.size) as threads:
        return list(threads.map(ask, rows))


def grade(name: str, rows: Sequence[Row], results: dict[str, Any]) -> list[Grade]:
    """Our verdicts; the time goes into the results."""
    judge = load_grader(name)
    begin = time.perf_counter()
    grades = grade_all(judge, [row.completion for row in rows], [gold_of(name, row.gold) for row in rows])
    results["seconds"][name] = round(time.perf_counter() - begin, 2)
    return grades


def agreement(rows: Sequence[Row], name: str, ours: Sequence[Grade], theirs: Sequence[bool | None]) -> dict[str, Any]:
    """Print and count where one grader and lm-eval disagree."""
    differing = []
    for row, verdict, other in zip(rows, ours, theirs, strict=True):
        if other is not None and verdict.correct != other:
            differing.append({"id": row.id, "ours": verdict.correct, "lm_eval": other, "timed_out": verdict.timed_out})
            print(f"{name}: {row.id}: ours {verdict.correct}, lm-eval {other}, our answer {verdict.extracted!r}")
    known = sum(other is not None for other in theirs)
    if not known:
        raise StageError("lm-eval gave no verdict at all; see what it printed for each row")
    print(f"{name}: {known - len(differing)} of {known} verdicts equal")
    return {
        "compared": known,
        "equal": known - len(differing),
        "ours_correct": sum(verdict.correct for verdict in ours),
        "lm_eval_correct": sum(other is True for other in theirs),
        "unparsable": sum(verdict.extracted is None and not verdict.timed_out for verdict in ours),
        "timed_out": sum(verdict.timed_out for verdict in ours),
        "disagreements": differing,
    }


def _correct(verdicts: Verdicts | None, column: str) -> bool | None:
    if verdicts is None:
        return None
    verdict = verdicts[column]
    return bool(verdict[1] if isinstance(verdict, list) else verdict)


def _frozen_differs(case: dict[str, Any], verdicts: Verdicts | None) -> bool:
    differs = verdicts is not None and any(case[column] != verdict for column, verdict in verdicts.items())
    if differs:
        print(f"the case table is not lm-eval's: {case['why']}: {verdicts}")
    return differs


def update(path: Path, cases: list[dict[str, Any]], theirs: Sequence[Verdicts | None]) -> None:
    """Write lm-eval's verdicts into the table; one row a line."""
    made = [case | (verdicts or {}) for case, verdicts in zip(cases, theirs, strict=True)]
    text = ",\n".join(json.dumps(case, ensure_ascii=False) for case in made)
    path.write_text(f"[\n{text}\n]\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
