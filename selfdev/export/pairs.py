"""The preference pairs of a run as a data set: for `datasets.load_dataset(DIR)` and TRL's `DPOTrainer`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from selfdev.errors import DataError

FILE = "train.jsonl"
_FIELDS = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score", "chosen_id", "rejected_id")
_CARD = """---
pretty_name: {title}
task_categories:
- text-generation
tags:
- preference
- dpo
- trl
- selfdev
- model-merging
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: {file}
---

# {title}

{count} preference pairs of model-merging programs, written by a language model and compared by the dev scores of the
merged models. Each row is a fixed prompt with a better and a worse program; explicit prompt, standard format, as TRL's
`DPOTrainer` takes it.

| field | what |
|---|---|
| `prompt`, `chosen`, `rejected` | text as the generator saw and wrote it |
| `chosen_score`, `rejected_score` | share of dev questions that the merged model answered; null: the program failed |
| `chosen_id`, `rejected_id` | the programs; ids of one run |
| `iteration` | of the run in which the pair was made |

| iteration | pairs |
|---|---|
{rows}

Seed model: `{seed}`; sources: {sources}; generator: `{generator}`; task: {task}; seed of the run: {run_seed}.

Scores are of small dev sets that also chose the pairs: they are too good for `chosen`. The programs are machine-written
and untrusted: do not run them outside a sandbox.
"""


def read_pairs(run: Path) -> list[dict[str, Any]]:
    """Every pair of a run, in order.

    Raises:
        DataError: the run has none yet, or a file is damaged.
    """
    files = sorted((run / "pairs").glob("iteration-*.jsonl"), key=_iteration)
    rows: list[dict[str, Any]] = []
    for file in files:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                rows.append({field: row[field] for field in _FIELDS} | {"iteration": _iteration(file)})
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{file}, line {number}, is no preference pair; `selfdev run` writes it anew") from None
    if not rows:
        raise DataError(f"{run} holds no preference pairs yet; finish an iteration with `selfdev run`")
    return rows


def write_data_set(directory: Path, rows: list[dict[str, Any]], config: dict[str, Any], title: str) -> None:
    """Write the rows and their card.

    Args:
        directory: empty.
        rows: of `read_pairs`.
        config: the run's resolved configuration.
        title: of the data set.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (directory / FILE).write_text(text, encoding="utf-8", newline="\n")
    counts: dict[int, int] = {}
    for row in rows:
        counts[row["iteration"]] = counts.get(row["iteration"], 0) + 1
    models = config["models"]
    card = _CARD.format(
        title=title,
        size="n<1K" if len(rows) < 1000 else "1K<n<10K" if len(rows) < 10_000 else "10K<n<100K",
        file=FILE,
        count=len(rows),
        rows="\n".join(f"| {iteration} | {count} |" for iteration, count in counts.items()),
        seed=_public(models["seed"]),
        sources=", ".join(f"`{_public(ref)}`" for ref in models["sources"]),
        generator=_public(config["generate"]["model"]),
        task=config["task"]["name"],
        run_seed=config["seed"],
    )
    (directory / "README.md").write_text(card, encoding="utf-8", newline="\n")


def _public(ref: str) -> str:
    """A reference without the directories of this machine."""
    return Path(ref).name if Path(ref).is_dir() else ref


def _iteration(file: Path) -> int:
    found = re.search(r"\d+", file.stem)
    return int(found[0]) if found else 0
