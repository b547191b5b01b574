"""`selfdev zoo`: the embedded models and how they are built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from selfdev.errors import UsageError

app = typer.Typer(help="The embedded models and how they are built.", no_args_is_help=True, rich_markup_mode=None)

PARTS = ("solvers", "second-solvers", "generator")


@app.command("list")
def list_models() -> None:
    """List the embedded models."""
    from selfdev.models import resolve, zoo_names

    table = Table("reference", "MB", "directory")
    for name in zoo_names():
        path = Path(resolve(f"zoo:{name}"))
        size = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
        table.add_row(f"zoo:{name}", f"{size / 1e6:.1f}", str(path))
    Console().print(table)


@app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", help="Where the model directories are written.")],
    only: Annotated[
        str | None, typer.Option("--only", help="solvers, second-solvers or generator; default all.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of data and weights; the shipped ones use 0.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the long training starts.")] = False,
) -> None:
    """Rebuild the embedded models from nothing: seeded, about an hour and a half on one CPU core."""
    if only is not None and only not in PARTS:
        raise UsageError(f"--only got {only!r}; allowed: {', '.join(PARTS)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; give another --out") from None
    console = Console()
    console.print(
        "trains on one CPU core: about 10 minutes for the solvers, 4 for their second set, 60 to 80 for the generator"
    )
    if not yes:
        typer.confirm("start?", abort=True)
    if only in (None, "solvers"):
        from selfdev.zoo.solver import build_solvers

        build_solvers(out, seed=seed, progress=console.print)
    if only in (None, "second-solvers"):
        from selfdev.models import resolve
        from selfdev.zoo.solver import SEED_NAME
        from selfdev.zoo.solver_second import build_second

        built = out / SEED_NAME
        root = built if built.is_dir() else Path(resolve(f"zoo:{SEED_NAME}"))
        build_second(root, out, seed=seed, progress=console.print)
    if only in (None, "generator"):
        from selfdev.zoo.generator import build_generator

        build_generator(out / "generator", seed=seed, report=console.print)
    console.print(f"models and figures: {out}")


@app.command("finetune")
def finetune(
    data: Annotated[Path, typer.Option("--data", help="Worked answers: a .jsonl, .jsonl.gz or .parquet file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The directory of the new model; must not exist yet.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="The seed: smollm2, a directory or a hub id.")
    ] = "smollm2",
    question_field: Annotated[
        list[str] | None, typer.Option("--question-field", help="Where the question is; repeated ones are joined.")
    ] = None,
    answer_field: Annotated[str, typer.Option("--answer-field", help="Where the worked answer is.")] = "answer",
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Use the first rows only.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Optimiser steps.")] = 100,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Rows per step.")] = 8,
    micro_batch: Annotated[
        int, typer.Option("--micro-batch", help="Rows computed at once; fewer need less memory.")
    ] = 4,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="At its peak.")] = 2e-4,
    lora_rank: Annotated[int, typer.Option("--lora-rank", help="Rank of the adapter; its alpha is twice that.")] = 16,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Leave longer rows out.")] = 512,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="Seed of adapter and order.")] = 0,
) -> None:
    """Make a sibling: LoRA fine-tuning on worked answers (TRL), merged into full weights."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from selfdev.sft import Recipe
    from selfdev.tasks.rows import Fields, read_rows
    from selfdev.wiring import resolve_device
    from selfdev.zoo.finetune import finetune as train

    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit} given; at least 1 row is needed")
    recipe = Recipe(
        steps=steps,
        batch_size=batch_size,
        micro_batch=min(micro_batch, batch_size),
        learning_rate=learning_rate,
        lora_rank=lora_rank,
        lora_alpha=2 * lora_rank,
        max_tokens=max_tokens,
        threads=threads,
        seed=seed,
    )
    where = resolve_device(device)
    rows = read_rows(data, Fields(tuple(question_field or ["question"]), answer_field), limit)
    console = Console()
    epochs = steps * batch_size / len(rows)
    console.print(f"{steps} steps of {batch_size} rows ({epochs:.1f} epochs of {len(rows)}) on {where}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        line = bar.add_task("loss", total=steps)
        report = train(
            model,
            rows,
            out,
            recipe,
            where,
            lambda step, _, loss: bar.update(line, completed=step, description=f"loss {loss:.3f}"),
        )
    left_out = f", {report.left_out} longer ones left out" if report.left_out else ""
    console.print(
        f"{report.rows} rows{left_out}; loss {report.first_loss:.3f} -> {report.last_loss:.3f} nats per token"
    )
    console.print(f"model: {out}", markup=False, highlight=False, soft_wrap=True)
