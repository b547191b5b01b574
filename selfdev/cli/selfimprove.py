"""`selfdev selfimprove`: a solver trained on its own verified answers, measured as it goes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from selfdev.config import TaskConfig, section_from

if TYPE_CHECKING:
    from selfdev.selfimprove.improve import Run, Trained
    from selfdev.selfimprove.measure import Point
    from selfdev.selfimprove.settings import ImproveConfig


def selfimprove(
    model: Annotated[str, typer.Option("--model", "-m", help="The solver: a directory, zoo:NAME, smollm2, a hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes; an own one is continued.")],
    task: Annotated[str, typer.Option("--task", "-t", help="gsm8k, hendrycks_math, jsonl or arithmetic.")] = "gsm8k",
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to measure on (and to train on, without --train-data).")
    ] = None,
    train_data: Annotated[Path | None, typer.Option("--train-data", help="Rows to train on.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", "-e", help="Rounds of sampling, selecting and training.")] = 10,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Answers per question, N of best-of-N.")] = 16,
    questions: Annotated[int, typer.Option("--questions", help="Training questions.")] = 64,
    measure_questions: Annotated[int, typer.Option("--measure-questions", help="Asked at every measurement.")] = 64,
    select: Annotated[
        str, typer.Option("--select", help="Quality by: likelihood, majority, true-false or quality.")
    ] = "likelihood",
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Drop samples of lower quality; default 0 for likelihood, else 0.5."),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Of sampling.")] = 1.0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Constant.")] = 1e-4,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Rows per optimiser step.")] = 8,
    micro_batch: Annotated[int | None, typer.Option("--micro-batch", help="Rows computed at once.")] = None,
    lora_rank: Annotated[int, typer.Option("--lora-rank", help="Rank of the adapter; its alpha is twice that.")] = 16,
    cross: Annotated[
        str, typer.Option("--cross", help="When external answers come in: none, early, uniform or late.")
    ] = "none",
    cross_data: Annotated[
        Path | None, typer.Option("--cross-data", help="Rows with question and worked answer; default: the task's own.")
    ] = None,
    cross_share: Annotated[
        float, typer.Option("--cross-share", help="External answers over training questions, in the whole run.")
    ] = 0.5,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Tokens per answer; default: the task's limit.")
    ] = None,
    sample_batch: Annotated[int, typer.Option("--sample-batch", help="Answers drawn at once.")] = 256,
    shots: Annotated[int | None, typer.Option("--shots", help="Worked problems before a question.")] = None,
    grader: Annotated[str | None, typer.Option("--grader", help="See `selfdev grade --help`.")] = None,
    question_field: Annotated[
        list[str] | None, typer.Option("--question-field", help="jsonl: where the question is; repeated: joined.")
    ] = None,
    answer_field: Annotated[str | None, typer.Option("--answer-field", help="jsonl: where the answer is.")] = None,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Ask through the chat template.")] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="Of questions, samples and training.")] = 0,
) -> None:
    """Train a solver on what its own verifier selects of its samples; fit the solver-verifier gap. Resumes."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from selfdev.selfimprove.settings import THRESHOLDS, ImproveConfig
    from selfdev.wiring import resolve_device

    asked = section_from(
        TaskConfig,
        "task",
        name=task,
        data=_text(data),
        train_data=_text(train_data),
        dev_size=questions,
        test_size=measure_questions,
        grader=grader,
        shots=shots,
        chat_template=chat_template,
        question_fields=question_field or [],
        answer_field=answer_field,
    )
    config = section_from(
        ImproveConfig,
        "selfimprove",
        model=model,
        task=asked.model_dump(),
        epochs=epochs,
        samples=samples,
        select=select,
        threshold=THRESHOLDS.get(select, 0.0) if threshold is None else threshold,
        temperature=temperature,
        sample_batch=sample_batch,
        max_new_tokens=max_new_tokens,
        train={
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "micro_batch": batch_size if micro_batch is None else micro_batch,
            "lora_rank": lora_rank,
        },
        cross={"schedule": cross, "share": cross_share, "data": _text(cross_data)},
        dtype=dtype,
        device=resolve_device(device),
        threads=threads,
        seed=seed,
    )
    execute(config, out, Console())


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def execute(config: ImproveConfig, out: Path, console: Console) -> dict[str, Any]:
    """Check, state the cost, improve, fit; returns what is written to result.json.

    Raises:
        SelfdevError: bad input, or a directory that belongs to something else.
    """
    import torch

    from selfdev.cli import gap
    from selfdev.models import fingerprint, load_config, load_tokenizer
    from selfdev.rundir import write_atomic
    from selfdev.selfimprove import improve, summary
    from selfdev.selfimprove.directory import Directory
    from selfdev.selfimprove.problems import load_problems

    torch.set_num_threads(config.threads)
    context = getattr(load_config(config.model), "max_position_embeddings", None)
    problems = load_problems(config)
    tokenizer = load_tokenizer(config.model)
    improve.check_external(problems, tokenizer, context)
    improve.check_verifier(config, problems, tokenizer)
    for note in problems.notes:
        _plain(console, f"warning: {note}")
    with Directory(out, config, {"model": fingerprint(config.model)} | problems.facts) as directory:
        run = improve.Run(config, problems, directory, ConsoleView(console))
        if directory.begun:
            _plain(console, f"continuing: {out}")
        else:
            console.print(cost_table(run))
        done = improve.improve(run)
        found = summary.result(config, done)
        write_atomic(out / "result.json", json.dumps(found, indent=2) + "\n")
    console.print(summary.points_table(done.points))
    if found["one_rate"] is not None:
        gap.fit(out / "curves.csv", seed=config.seed)
    for line in summary.lines(config, found):
        _plain(console, line)
    _plain(console, f"curves: {out / 'curves.csv'} (`selfdev gap fit` reads it), all else: {out}")
    return found


def _plain(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def cost_table(run: Run) -> Table:
    """Tokens at most, and the time they take, measured on a first batch."""
    from selfdev.selfimprove import improve

    config, problems = run.config, run.problems
    measurements = 2 * config.epochs + 1
    with run.view.phase("measuring the speed", 2) as advance, improve.sampler(run, None) as sampler:
        train = sampler.cost([q.prompt for q in problems.train], config.samples)
        advance(1)
        measure = sampler.cost([q.prompt for q in problems.measure], config.samples)
        advance(1)
    table = Table(title="plan", title_justify="left", show_header=False)
    drawn = config.epochs * len(problems.train) * config.samples
    measured = measurements * len(problems.measure) * config.samples
    table.add_row("solver", f"{config.model} on {config.device}")
    table.add_row(
        "questions", f"{len(problems.train)} of {config.task.name} to train on, {len(problems.measure)} to measure"
    )
    table.add_row(
        "samples", f"{drawn} to train on ({config.epochs} epochs) + {measured} to measure ({measurements} times)"
    )
    limit = problems.max_new_tokens
    table.add_row("new tokens", f"at most {limit} each, {(drawn + measured) * limit / 1e6:.2f} million in all")
    seconds = config.epochs * train.seconds + measurements * measure.seconds
    table.add_row("sampling", f"at most {seconds / 60:.1f} minutes (measured on a first batch)")
    passes = 3 * config.epochs * len(problems.train)  # forward and backward
    minutes = passes * (train.prompt_tokens + limit) / train.tokens_per_second / 60
    table.add_row("training", f"about {minutes:.1f} minutes, and the trainer's start in each epoch (estimated)")
    if problems.external:
        table.add_row("external", f"{len(problems.external)} answers, schedule {config.cross.schedule}")
    return table


class ConsoleView:
    """Bars on a terminal, one line per finished phase everywhere."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def phase(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        """Show a phase; the function it gives advances it."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        timers = (TimeElapsedColumn(), TimeRemainingColumn())
        quiet = not self._console.is_terminal
        with Progress(*columns, *timers, console=self._console, transient=True, disable=quiet) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)

    def measured(self, point: Point) -> None:
        """One line."""
        _plain(
            self._console,
            f"time {point.time:g}: U_s {point.mean('solver'):.3f}, U_v {point.mean('verifier'):.3f}, "
            f"gap {point.gap:.3f}, J(f) {point.mean('score'):.3f}, J(f[w]) {point.mean('selected_score'):.3f}, "
            f"kept of {point.kept} of {len(point.questions)} questions",
        )

    def trained(self, epoch: int, trained: Trained) -> None:
        """One line."""
        loss = "nothing was kept" if trained.last_loss is None else f"loss {trained.last_loss:.4f} nats per token"
        external = f", {trained.external} of them external" if trained.external else ""
        _plain(self._console, f"epoch {epoch}: {trained.rows} answers{external}, {trained.steps} steps, {loss}")
