"""`selfdev evaluate`: score one model on one task, without a search."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from selfdev.config import TaskConfig, section_from
from selfdev.errors import SelfdevError, UsageError
from selfdev.types import Answer, Completion, Question

if TYPE_CHECKING:
    from selfdev.evaluators.greedy import Workload
    from selfdev.evaluators.transformers import TransformersEvaluator
    from selfdev.evaluators.vllm import VllmEvaluator
    from selfdev.tasks.base import Task

    Engine = TransformersEvaluator | VllmEvaluator

DTYPES = ("auto", "float32", "bfloat16", "float16")
ENGINES = ("transformers", "vllm")

Verdicts = Mapping[str, Sequence[Answer]]  # grader -> one answer per question


def evaluate(
    model: Annotated[str, typer.Option("--model", "-m", help="A model directory, zoo:NAME, smollm2 or a hub id.")],
    task: Annotated[str, typer.Option("--task", "-t", help="gsm8k, hendrycks_math, jsonl or arithmetic.")] = "gsm8k",
    data: Annotated[
        Path | None, typer.Option("--data", help="Test rows: a .jsonl, .jsonl.gz or .parquet file; default: the hub.")
    ] = None,
    train_data: Annotated[
        Path | None,
        typer.Option("--train-data", help="Train rows: lm-eval's shots for gsm8k; checked for near-duplicates."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="Score the first rows only (MATH: equally many of each subject).")
    ] = 100,
    protocol: Annotated[
        str, typer.Option("--protocol", help="search: one frozen few-shot prefix; lm-eval: lm-eval 0.4.13's prompts.")
    ] = "search",
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask through the model's chat template, as one user message.")
    ] = False,
    grader: Annotated[
        str | None, typer.Option("--grader", help="Grade with this one only; default: all that fit the task.")
    ] = None,
    shots: Annotated[int | None, typer.Option("--shots", help="Worked problems before a question.")] = None,
    shots_file: Annotated[
        Path | None, typer.Option("--shots-file", help="Worked problems: a JSON list with question and answer.")
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option("--subject", help="hendrycks_math: this subject only; may be repeated.")
    ] = None,
    question_field: Annotated[
        list[str] | None,
        typer.Option("--question-field", help="jsonl: where the question is; repeated ones are joined."),
    ] = None,
    answer_field: Annotated[str | None, typer.Option("--answer-field", help="jsonl: where the answer is.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="transformers or vllm.")] = "transformers",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Questions answered together.")] = 16,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Tokens per answer; default: the task's limit.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Seed of generated questions.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a verdict per row to this .jsonl file.")
    ] = None,
) -> None:
    """Score a model: few-shot, greedy, exact match."""
    _check(batch_size, max_new_tokens, dtype, engine, output)
    config = section_from(
        TaskConfig,
        "task",
        name=task,
        data=_text(data),
        train_data=_text(train_data),
        protocol=protocol,
        chat_template=chat_template,
        grader=grader,
        shots=shots,
        shots_file=_text(shots_file),
        subjects=subject or [],
        question_fields=question_field or [],
        answer_field=answer_field,
    )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from selfdev.models import load_config
    from selfdev.wiring import resolve_device

    console = Console()
    where = resolve_device(device)
    load_config(model)  # a mistyped model is reported before the data is read
    loaded = load(config, model, limit, seed, max_new_tokens)
    for note in loaded.notes:
        console.print(f"warning: {note}", markup=False, highlight=False, soft_wrap=True)
    prompts = [question.prompt for question in loaded.dev]
    evaluator = _open(engine, model, where, batch_size, dtype, loaded)
    try:
        console.print(_plan(f"{model} on {where}, {engine}", loaded, batch_size, evaluator.forecast(prompts)))
        begin = time.perf_counter()
        completions = _answer(evaluator, prompts, console)
        seconds = time.perf_counter() - begin
    finally:
        evaluator.close()
    verdicts = grade_all(loaded, completions, console)
    console.print(_result(loaded, completions, verdicts, seconds))
    if output is not None:
        _write(output, loaded.dev, completions, verdicts)
        console.print(f"verdicts: {output}", markup=False, highlight=False, soft_wrap=True)


def load(config: TaskConfig, model: str, limit: int, seed: int, max_new_tokens: int | None) -> Task:
    """The questions as this model will be asked them.

    Raises:
        UsageError: settings that the task does not have, or that exclude one another.
        DataError: the data cannot be read.
        ModelError: the model has no chat template.
    """
    from selfdev.tasks import load_questions

    task = load_questions(config, limit, seed)
    if config.chat_template:
        from selfdev.models import load_tokenizer
        from selfdev.tasks.chat import with_chat

        task = with_chat(task, load_tokenizer(model))
    return task if max_new_tokens is None else replace(task, max_new_tokens=max_new_tokens)


def grade_all(task: Task, completions: Sequence[Completion], console: Console) -> Verdicts:
    """Every grader's verdicts. A grader beside the deciding one that cannot run here is named and left out."""
    from selfdev.grading import gold_of, load_grader
    from selfdev.score import score

    verdicts = {task.graders[0]: score(task.dev, completions, task.grade)}
    for name in task.graders[1:]:
        try:
            questions = [replace(q, gold=gold_of(name, task.references[q.id])) for q in task.dev]
            verdicts[name] = score(questions, completions, load_grader(name))
        except SelfdevError as error:
            console.print(f"grader {name} left out: {error}", markup=False, highlight=False, soft_wrap=True)
    return verdicts


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _check(batch_size: int, max_new_tokens: int | None, dtype: str, engine: str, output: Path | None) -> None:
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} given; at least 1 is needed")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UsageError(f"max new tokens {max_new_tokens} given; at least 1 is needed")
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}; allowed: {', '.join(ENGINES)}")
    if output is None:
        return
    from selfdev.rundir import check_writable

    check_writable(output)


def _open(engine: str, model: str, device: str, batch_size: int, dtype: str, task: Task) -> Engine:
    given: dict[str, Any] = {
        "batch_size": batch_size,
        "max_new_tokens": task.max_new_tokens,
        "stop": task.stop,
        "dtype": dtype,
    }
    if engine == "vllm":
        from selfdev.evaluators.vllm import VllmEvaluator

        return VllmEvaluator(model, device, **given)
    from selfdev.evaluators.transformers import TransformersEvaluator

    return TransformersEvaluator(model, device, **given)


def _plan(model: str, task: Task, batch_size: int, work: Workload) -> Table:
    table = Table(title="plan", title_justify="left", show_header=False)
    table.add_row("model", model)
    table.add_row("questions", f"{len(task.dev)} of {task.name}, {batch_size} at a time")
    if "protocol" in task.facts:
        table.add_row("protocol", task.facts["protocol"])
    table.add_row("prompt tokens", f"{work.prompt_tokens}, of them {work.shared_tokens} shared by every prompt")
    table.add_row("new tokens", f"at most {task.max_new_tokens} each, {len(task.dev) * task.max_new_tokens} in all")
    table.add_row("time", f"at most {work.seconds / 60:.1f} minutes (measured on the first batch)")
    return table


def _answer(evaluator: Engine, prompts: Sequence[str], console: Console) -> list[Completion]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        answered = bar.add_task("answering", total=len(prompts))
        return evaluator.generate(prompts, lambda count: bar.advance(answered, count))


def _result(task: Task, completions: Sequence[Completion], verdicts: Verdicts, seconds: float) -> Table:
    from selfdev.score import summarise

    table = Table("", "accuracy", "correct", "95 % interval", "unparsable", title="result", title_justify="left")
    scores = {name: summarise(answers) for name, answers in verdicts.items()}
    for name, score in scores.items():
        low, high = score.interval
        table.add_row(
            name,
            f"{score.correct / score.total:.3f}",
            f"{score.correct}/{score.total}",
            f"{low:.3f} to {high:.3f}",
            str(score.unparsable),
        )
    tokens = sum(completion.tokens for completion in completions)
    first = next(iter(scores.values()))
    late = sum(score.timed_out for score in scores.values())
    table.caption = (
        f"{first.truncated} truncated at {task.max_new_tokens} tokens, {first.empty} empty, {first.repetitive} ending "
        f"in a loop; {late} comparisons timed out; {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s"
    )
    return table


def _write(path: Path, questions: Sequence[Question], completions: Sequence[Completion], verdicts: Verdicts) -> None:
    from selfdev.rundir import write_atomic

    rows = (
        _row(question, completion, {name: answers[place] for name, answers in verdicts.items()})
        for place, (question, completion) in enumerate(zip(questions, completions, strict=True))
    )
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _row(question: Question, completion: Completion, answers: Mapping[str, Answer]) -> dict[str, Any]:
    return {
        "id": question.id,
        "gold": question.gold,
        "verdicts": {
            name: {"extracted": a.extracted, "correct": a.correct, "timed_out": a.timed_out}
            for name, a in answers.items()
        },
        "tokens": completion.tokens,
        "truncated": completion.truncated,
        "completion": completion.text,
    }
