"""A real language model end to end on CPU: SmolLM2-135M-Instruct, three siblings fine-tuned from it, merges searched.

    python benchmarks/run_smollm2.py --train-data gsm8k/train.jsonl.gz --svamp svamp.jsonl --out smollm2-run \\
        [--engine vllm --python .venv-vllm/bin/python]

The steps, each left out where its result exists already:

1. Three slices of GSM8K's train split by the arithmetic of their solutions: only + and -, only * and /, both. Short
   ones only (at most three operations, questions of at most 300 characters). The worked answer is the equations alone,
   as GSM8K's calculator marks hold them: 135M parameters learn to set up an equation sooner than to explain it.
2. `selfdev zoo finetune` on each: 800 rows in 100 steps.
3. `selfdev evaluate` of seed and siblings on SVAMP's first rows (the base rates).
4. `selfdev run --preset smollm2`.

Everything is real and small: with 60 to 100 questions a difference below about 10 points cannot be resolved.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
from demo_seeds import figures

SLICES = ("add", "mul", "mixed")
ROWS = 800  # of a slice
STEPS, BATCH, RATE, TOKENS = 100, 8, 5e-4, 256
_MARK = re.compile(r"<<([^>]*?=[^>]*)>>")
_MOST_OPERATIONS, _MOST_CHARACTERS = 3, 300


def main() -> None:
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    siblings = {name: sibling(given, name) for name in SLICES}
    rates = base_rates(given, {"seed": Path("smollm2")} | siblings)
    run_dir, settings = given.out / "run", list(search_settings(given, siblings))
    seconds = timed(given, ["run", "--preset", "smollm2", "--run-dir", str(run_dir), *settings])
    seconds += timed(given, ["test", str(run_dir)])
    results = {
        "engine": given.engine,
        "slices": {name: {"rows": ROWS, "steps": STEPS, "batch": BATCH, "learning_rate": RATE} for name in SLICES},
        "finetune": {name: finetune_record(path) for name, path in siblings.items()},
        "base_rates_svamp": rates,
        "run_seconds": round(seconds, 1),
        "config": without_directories(json.loads((run_dir / "config.json").read_text(encoding="utf-8"))),
        **figures(run_dir),
    }
    print(json.dumps(results, indent=2))
    if given.record:
        print(f"recorded: {record.write(given.record, results)}")


def without_directories(value: Any) -> Any:
    """A configuration in which absolute paths are names: where files lay says nothing elsewhere."""
    if isinstance(value, dict):
        return {key: without_directories(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_directories(part) for part in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-data", type=Path, required=True, help="GSM8K train rows")
    parser.add_argument("--svamp", type=Path, required=True, help="SVAMP rows")
    parser.add_argument("--out", type=Path, required=True, help="slices, siblings and the run")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--python", default=sys.executable, help="python of the environment that runs the search")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, default=100, help="SVAMP rows for the base rates; 0: leave them out")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for the search, as in selfdev run")
    parser.add_argument("--record", help="name of a file in results/")
    return parser.parse_args()


def sibling(given: argparse.Namespace, name: str) -> Path:
    """A fine-tuned model; made if it is not there."""
    out, data = given.out / f"sibling-{name}", given.out / f"{name}.jsonl"
    if not out.is_dir():
        rows = [json.dumps(row) + "\n" for row in slice_rows(given.train_data, name)]
        data.write_text("".join(rows), encoding="utf-8")
        options = {
            "--data": data,
            "--out": out,
            "--limit": ROWS,
            "--steps": STEPS,
            "--batch-size": BATCH,
            "--micro-batch": 4,
            "--learning-rate": RATE,
            "--max-tokens": TOKENS,
            "--threads": given.threads,
        }
        timed(given, ["zoo", "finetune", *(str(part) for option in options.items() for part in option)])
    return out


def slice_rows(path: Path, name: str) -> Iterator[dict[str, str]]:
    """Short rows of one kind of arithmetic, in the order of the file."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            marks = _MARK.findall(row["answer"])
            short = len(marks) <= _MOST_OPERATIONS and len(row["question"]) <= _MOST_CHARACTERS
            if short and kind(marks) == name:
                result = row["answer"].rpartition("####")[2].strip()
                yield {"question": row["question"], "answer": "\n".join([*marks, f"#### {result}"])}


def kind(marks: list[str]) -> str | None:
    """Which slice a solution belongs to; None where it computes nothing."""
    signs = {sign for mark in marks for sign in "+-*/" if sign in mark.partition("=")[0].lstrip("-")}
    if not signs:
        return None
    return "add" if signs <= {"+", "-"} else "mul" if signs <= {"*", "/"} else "mixed"


def finetune_record(path: Path) -> dict[str, Any]:
    """What `selfdev zoo finetune` noted."""
    noted: dict[str, Any] = json.loads((path / "selfdev_finetune.json").read_text(encoding="utf-8"))
    return noted | {"base": Path(noted["base"]).name}


def base_rates(given: argparse.Namespace, models: dict[str, Path]) -> dict[str, Any]:
    """Correct answers of each model on the first SVAMP rows, asked as the search asks."""
    rates = {}
    for name, path in models.items() if given.limit else ():
        out = given.out / f"rates-{name}.jsonl"
        if not out.exists():
            options = ["--model", str(path), "--task", "jsonl", "--data", str(given.svamp), "--limit", str(given.limit)]
            fields = ["--question-field", "Body", "--question-field", "Question", "--answer-field", "Answer"]
            prompt = [
                "--shots-file",
                "tasks/equations-5shot.json",
                "--max-new-tokens",
                "48",
                "--engine",
                given.engine,
                "--dtype",
                "float32",
            ]
            timed(
                given, ["evaluate", *options, *fields, *prompt, "--grader", "number", "-b", "64", "--output", str(out)]
            )
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        rates[name] = {"correct": sum(row["verdicts"]["number"]["correct"] for row in rows), "questions": len(rows),
                       "truncated": sum(row["truncated"] for row in rows)}  # fmt: skip
    return rates


def search_settings(given: argparse.Namespace, siblings: dict[str, Path]) -> Iterator[str]:
    """Options of the search that depend on this machine."""
    values = {
        "models.sources": json.dumps([str(path) for path in siblings.values()]),
        "task.data": json.dumps(str(given.svamp)),
        "evaluate.engine": given.engine,
        "models.dtype": "float32",
        "threads": given.threads,
    }
    for text in [f"{key}={value}" for key, value in values.items()] + given.set:
        yield from ("--set", text)


def timed(given: argparse.Namespace, command: list[str]) -> float:
    """Run `selfdev ...`; seconds."""
    environment = dict(os.environ) | {"OMP_NUM_THREADS": str(given.threads)}
    begin = time.perf_counter()
    subprocess.run([given.python, "-m", "selfdev", *command], check=True, env=environment)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
