"""Our `--protocol lm-eval` against lm-eval 0.4.13 itself: prompts byte for byte, then completions and verdicts per row.

lm-eval runs in its own environment (its pins and ours need not agree), on the same rows, with its own task file. Prints
every disagreement; the record names rows by id and holds no text of theirs. Speed is measured in bench_evaluation.py.
Examples:

    python benchmarks/compare_lm_eval.py --lm-eval-python ../lmeval/bin/python --model smollm2 --limit 100 \\
        --data gsm8k/test.jsonl --train-data gsm8k/train.jsonl.gz --record compare_lm_eval_gsm8k
    python benchmarks/compare_lm_eval.py --lm-eval-python ../lmeval/bin/python --prompts-only --limit 140 \\
        --task minerva_math --data math/test.jsonl --shots-file minerva.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record

from selfdev.config import TaskConfig, section_from
from selfdev.grading import gold_of, load_grader
from selfdev.tasks import gsm8k, hendrycks_math, load_questions
from selfdev.tasks.base import Task
from selfdev.tasks.rows import read_rows
from selfdev.types import Completion

WORKER = Path(__file__).parent / "lm_eval_worker.py"
TASKS = {"gsm8k": "gsm8k", "minerva_math": "hendrycks_math", "hendrycks_math": "hendrycks_math"}
GRADERS = {  # lm-eval's name of a verdict -> ours
    "gsm8k": {"exact_match,strict-match": "gsm8k-strict", "exact_match,flexible-extract": "gsm8k-flexible"},
    "minerva_math": {"exact_match,none": "math-minerva", "math_verify,none": "math-verify"},
    "hendrycks_math": {"exact_match,none": "math-hendrycks"},
}


def main() -> None:
    """Compare, print, record."""
    given = arguments()
    task = ours(given)
    theirs = lm_eval(given, task)
    result = {
        "task": given.task,
        "rows": len(task.dev),
        "chat_template": given.chat_template,
        "lm_eval_environment": theirs["versions"],
        **compare_prompts(given, task, theirs["rows"]),
    }
    if not given.prompts_only:
        result |= compare_completions(given, task, theirs)
    print(json.dumps(result, indent=2))
    if given.record:
        print(f"recorded: {record.write(given.record, result)}")


def arguments() -> argparse.Namespace:
    """What to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm-eval-python", type=Path, required=True, help="python of an environment with lm-eval")
    parser.add_argument("--task", choices=TASKS, default="gsm8k")
    parser.add_argument("--data", type=Path, required=True, help="test rows")
    parser.add_argument("--train-data", type=Path, help="train rows (gsm8k)")
    parser.add_argument("--shots-file", type=Path, help="lm-eval's four worked problems (minerva_math)")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--model", help="needed unless --prompts-only without --chat-template")
    parser.add_argument("--prompts-only", action="store_true")
    parser.add_argument("--chat-template", action="store_true")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", default="float32", help="of the weights, on both sides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, help="keep lm-eval's rows in this file; reuse them for the same job")
    parser.add_argument("--record", help="name of a file in results/")
    given = parser.parse_args()
    if given.model is None and (given.chat_template or not given.prompts_only):
        parser.error("--model is needed")
    return given


def ours(given: argparse.Namespace) -> Task:
    """Our questions under the protocol."""
    config = section_from(
        TaskConfig,
        "task",
        name=TASKS[given.task],
        data=str(given.data),
        train_data=None if given.train_data is None else str(given.train_data),
        protocol="lm-eval",
        grader="math-hendrycks" if given.task == "hendrycks_math" else None,
        shots_file=None if given.shots_file is None else str(given.shots_file),
    )
    task = load_questions(config, given.limit, 0)
    if given.chat_template:
        from selfdev.models import load_tokenizer
        from selfdev.tasks.chat import with_chat

        task = with_chat(task, load_tokenizer(given.model))
    return task


def lm_eval(given: argparse.Namespace, task: Task) -> dict[str, Any]:
    """lm-eval's rows, made in its own environment from exactly our rows, in our order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job, digest = write_job(given, folder, task)
        if given.cache is not None and given.cache.is_file():
            kept: dict[str, Any] = json.loads(given.cache.read_text(encoding="utf-8"))
            if kept["job"] == digest:
                return kept
        subprocess.run(
            [str(given.lm_eval_python), str(WORKER), str(job), str(folder / "out.json")],
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
            check=True,
            stdout=sys.stderr,
        )
        done = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    done["job"] = digest
    if given.cache is not None:
        given.cache.write_text(json.dumps(done), encoding="utf-8")
    return dict(done)


def write_job(given: argparse.Namespace, folder: Path, task: Task) -> tuple[Path, str]:
    """The worker's job and its data files; a hash of all of them."""
    fields = (gsm8k if given.task == "gsm8k" else hendrycks_math).FIELDS
    files = {"test": given.data} | ({"train": given.train_data} if given.train_data else {})
    wanted = {task.references[question.id] for question in task.dev}
    names = (fields.question[0], fields.answer)
    digest = hashlib.sha256()
    for split, file in files.items():
        rows = [row for row in read_rows(file, fields) if split == "train" or row.answer in wanted]
        rows = rows if split == "train" else rows[: len(task.dev)]
        lines = (json.dumps(dict(zip(names, (row.question, row.answer), strict=True))) + "\n" for row in rows)
        text = "".join(lines)
        digest.update(text.encode())
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    job: dict[str, Any] = {key: getattr(given, key) for key in ("task", "prompts_only", "chat_template", "dtype")}
    job |= {"device": given.device, "batch_size": given.batch_size, "model": directory(given.model)}
    digest.update(json.dumps(job).encode())
    job["data_files"] = {split: str(folder / f"{split}.jsonl") for split in files}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder / "job.json", digest.hexdigest()


def directory(model: str | None) -> str | None:
    """The model's directory, which lm-eval opens too."""
    if model is None:
        return None
    from selfdev.models import local_directory

    return str(local_directory(model))


def compare_prompts(given: argparse.Namespace, task: Task, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Prompts, stop strings and token limit."""
    assert len(rows) == len(task.dev), f"{len(rows)} rows of lm-eval for {len(task.dev)} of ours"
    begin = ""
    if given.chat_template:
        from selfdev.models import load_tokenizer

        begin = load_tokenizer(given.model).bos_token or ""  # ours leaves a token out that the tokenizer adds
    equal = 0
    for question, row in zip(task.dev, rows, strict=True):
        same = row["prompt"] in (question.prompt, begin + question.prompt)
        equal += same
        if not same:
            tell(f"PROMPT {question.id}", question.prompt, row["prompt"])
        settings = row["settings"]
        assert tuple(settings["until"]) == task.stop, f"stop strings {settings['until']} and {task.stop}"
        assert settings.get("max_gen_toks", 256) == task.max_new_tokens, "token limits differ"
    joined = "\0".join(question.prompt for question in task.dev)
    return {"equal_prompts": equal, "prompts_sha256": hashlib.sha256(joined.encode()).hexdigest()}


def compare_completions(given: argparse.Namespace, task: Task, theirs: dict[str, Any]) -> dict[str, Any]:
    """Texts and verdicts, row by row."""
    completions = answer(given, task)
    rows = theirs["rows"]
    differing = {}
    for question, completion, row in zip(task.dev, completions, rows, strict=True):
        if completion.text != row["completion"]:
            differing[question.id] = first_difference(completion.text, row["completion"])
            tell(f"COMPLETION {question.id}, character {differing[question.id]}", completion.text, row["completion"])
    return {
        "model": given.model,
        "weights": given.dtype,
        "batch_size": given.batch_size,
        "equal_completions": len(rows) - len(differing),
        "completions_that_differ_from_character": differing,
        "verdicts": {
            ours: compare_verdicts(ours, [row["verdicts"][name] for row in rows], task, completions, rows)
            for name, ours in GRADERS[given.task].items()
        },
    }


def answer(given: argparse.Namespace, task: Task) -> list[Completion]:
    """Our completions."""
    from selfdev.evaluators.transformers import TransformersEvaluator

    evaluator = TransformersEvaluator(
        given.model, given.device, given.batch_size, task.max_new_tokens, task.stop, given.dtype
    )
    return evaluator.generate([question.prompt for question in task.dev])


def compare_verdicts(
    name: str, theirs: Sequence[bool], task: Task, completions: Sequence[Completion], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Our verdicts on our texts, and on lm-eval's, with lm-eval's on its own."""
    grade = load_grader(name)
    golds = [gold_of(name, task.references[question.id]) for question in task.dev]
    own = [grade(completion.text, gold).correct for completion, gold in zip(completions, golds, strict=True)]
    regraded = [grade(row["completion"], gold).correct for row, gold in zip(rows, golds, strict=True)]
    for i, question in enumerate(task.dev):
        if not own[i] == regraded[i] == theirs[i]:
            verdicts = f"ours {own[i]}, lm-eval {theirs[i]}, our grader on lm-eval's text {regraded[i]}"
            tell(f"{name} {question.id} gold {golds[i]!r}: {verdicts}", completions[i].text, rows[i]["completion"])
    return {
        "ours_correct": sum(own),
        "lm_eval_correct": sum(theirs),
        "different": [task.dev[i].id for i in range(len(own)) if own[i] != theirs[i]],
        "different_on_lm_evals_text": [task.dev[i].id for i in range(len(own)) if regraded[i] != theirs[i]],
    }


def first_difference(one: str, other: str) -> int:
    """Position of the first character in which two different texts differ."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def tell(title: str, ours: str, theirs: str) -> None:
    """Print a disagreement."""
    print(f"{title}\n  ours:    {ours!r}\n  lm-eval: {theirs!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
