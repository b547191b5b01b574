"""`selfdev evaluate`: score one model on one task, without a search."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from selfdev.errors import UsageError
from selfdev.types import Answer, Completion, Question

if TYPE_CHECKING:
    from selfdev.evaluators.greedy import Workload
    from selfdev.evaluators.transformers import TransformersEvaluator
    from selfdev.tasks.base import Task

DTYPES = ("auto", "float32", "bfloat16", "float16")


def evaluate(
    model: Annotated[str, typer.Option("--model", "-m", help="A model directory, zoo:NAME, smollm2 or a hub id.")],
    task: Annotated[str, typer.Option("--task", "-t", help="gsm8k or arithmetic.")] = "gsm8k",
    data: Annotated[
        Path | None, typer.Option("--data", help="A .jsonl or .jsonl.gz file with question and answer.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Score the first rows only.")] = 100,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Questions answered together.")] = 16,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Seed of generated questions.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a verdict per row to this .jsonl file.")
    ] = None,
) -> None:
    """Score a model on GSM8K-style questions: few-shot, greedy, exact match."""
    _check(batch_size, dtype, output)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from selfdev.evaluators.transformers import TransformersEvaluator
    from selfdev.tasks import load_questions
    from selfdev.wiring import resolve_device

    console = Console()
    where = resolve_device(device)
    loaded = load_questions(task, limit=limit, seed=seed, data=data)
    evaluator = TransformersEvaluator(
        model,
        where,
        batch_size=batch_size,
        max_new_tokens=loaded.max_new_tokens,
        stop=loaded.stop,
        dtype=dtype,
    )
    prompts = [question.prompt for question in loaded.dev]
    console.print(_plan(model, where, loaded, batch_size, evaluator.forecast(prompts)))
    begin = time.perf_counter()
    completions = _answer(evaluator, prompts, console)
    console.print(_result(loaded, completions, time.perf_counter() - begin))
    if output is not None:
        _write(output, loaded.dev, completions)
        console.print(f"verdicts: {output}")


def _check(batch_size: int, dtype: str, output: Path | None) -> None:
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} given; at least 1 is needed")
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    if output is None:
        return
    folder = output.absolute().parent
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {output}; give a file in an existing, writable directory")


def _plan(model: str, device: str, task: Task, batch_size: int, work: Workload) -> Table:
    table = Table(title="plan", title_justify="left", show_header=False)
    table.add_row("model", f"{model} on {device}")
    table.add_row("questions", f"{len(task.dev)} of {task.name}, {batch_size} at a time")
    table.add_row("prompt tokens", f"{work.prompt_tokens}, of them {work.shared_tokens} shared by every prompt")
    table.add_row("new tokens", f"at most {task.max_new_tokens} each, {len(task.dev) * task.max_new_tokens} in all")
    table.add_row("time", f"at most {work.seconds / 60:.1f} minutes (measured on the first batch)")
    return table


def _answer(evaluator: TransformersEvaluator, prompts: Sequence[str], console: Console) -> list[Completion]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        answered = bar.add_task("answering", total=len(prompts))
        return evaluator.generate(prompts, lambda count: bar.advance(answered, count))


def _result(task: Task, completions: Sequence[Completion], seconds: float) -> Table:
    from selfdev.grading.gsm8k import grade_flexible, grade_strict
    from selfdev.score import score, summarise

    table = Table("", "accuracy", "correct", "95 % interval", "unparsable", title="result", title_justify="left")
    for name, grade in (("strict", grade_strict), ("flexible", grade_flexible)):
        result = summarise(score(task.dev, completions, grade))
        low, high = result.interval
        table.add_row(
            name,
            f"{result.correct / result.total:.3f}",
            f"{result.correct}/{result.total}",
            f"{low:.3f} to {high:.3f}",
            str(result.unparsable),
        )
    tokens = sum(completion.tokens for completion in completions)
    truncated = sum(completion.truncated for completion in completions)
    table.caption = (
        f"{truncated} truncated at {task.max_new_tokens} tokens; {tokens} tokens in {seconds:.1f} s, "
        f"{tokens / seconds:.0f} tokens/s"
    )
    return table


def _write(path: Path, questions: Sequence[Question], completions: Sequence[Completion]) -> None:
    from selfdev.grading.gsm8k import grade_flexible, grade_strict
    from selfdev.rundir import write_atomic
    from selfdev.score import score

    graded = zip(
        questions,
        score(questions, completions, grade_strict),
        score(questions, completions, grade_flexible),
        strict=True,
    )
    write_atomic(path, "".join(_line(question, strict, flexible) for question, strict, flexible in graded))


def _line(question: Question, strict: Answer, flexible: Answer) -> str:
    row = {
        "id": question.id,
        "gold": question.gold,
        "strict": {"extracted": strict.extracted, "correct": strict.correct},
        "flexible": {"extracted": flexible.extracted, "correct": flexible.correct},
        "tokens": strict.completion.tokens,
        "truncated": strict.completion.truncated,
        "completion": strict.completion.text,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
