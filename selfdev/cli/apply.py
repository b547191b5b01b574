"""`selfdev apply`: merge any models with any algorithm file."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperCommand

from selfdev.errors import UsageError

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Command(TyperCommand):
    """A command whose `--sources` takes all values up to the next option: `--sources A B C`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turn `--sources A B C` into `--sources A --sources B --sources C`; a .py file is no model."""
        return super().parse_args(ctx, spread(args, "--sources"))


def spread(arguments: list[str], option: str) -> list[str]:
    """Repeat an option before each of the values that follow it."""
    out: list[str] = []
    inside = 0
    for argument in arguments:
        if argument == option or argument.startswith("-"):
            inside = 1 if argument == option else 0
        elif inside and argument.endswith(".py"):
            inside = 0
        elif inside:
            out += [option] if inside > 1 else []
            inside += 1
        out.append(argument)
    return out


def apply(
    algorithm: Annotated[Path, typer.Argument(help="A Python file that defines merge_models(task_vectors).")],
    seed_model: Annotated[
        str, typer.Option("--seed-model", "-m", help="The seed: a directory, zoo:NAME, smollm2 or a hub id.")
    ],
    sources: Annotated[
        list[str], typer.Option("--sources", help="Models fine-tuned from it, in order: --sources A B C.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The directory of the merged model; must not exist yet.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="What is merged: all, mlp, or a glob of names (may be repeated); default all."),
    ] = None,
    execution_seed: Annotated[
        str,
        typer.Option("--execution-seed", help="Of the algorithm's random draws; auto: named in the file, else 0."),
    ] = "auto",
    exact: Annotated[
        bool, typer.Option("--exact", help="Run the algorithm's own steps, as a search does, even where it is linear.")
    ] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="auto (as the seed is stored), float32, bfloat16, float16.")] = (
        "auto"
    ),
    shard_gb: Annotated[float, typer.Option("--shard-gb", help="Largest file of weights, in GB.")] = 5.0,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: as many as cores.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke/--no-smoke", help="Ask the merged model ten questions.")] = True,
    allow_missing: Annotated[
        list[str] | None, typer.Option("--allow-missing", help="A sandbox layer that may be absent; may be repeated.")
    ] = None,
) -> None:
    """Merge models with an algorithm file: tensor by tensor where it allows, the memory it needs said before."""
    text, draws = read_algorithm(algorithm), _execution_seed(algorithm, execution_seed)
    prepare(threads)
    from selfdev.apply.merge import Merge, Request, set_dtype
    from selfdev.apply.output import carry_over, check_new, new_directory
    from selfdev.export.card import Card, parents, write_card
    from selfdev.export.smoke import general_prompts, print_smoke, smoke_test

    check_new(out)
    request = Request(
        algorithm=text,
        seed=seed_model,
        sources=tuple(sources),
        scope=_scope(scope or ["all"]),
        execution_seed=draws,
        exact=exact,
        dtype=torch_dtype(dtype),
        allow_missing=tuple(allow_missing or ()),
        shard_bytes=shard_bytes(shard_gb),
    )
    console = Console()
    with console.status("looking at the models and the algorithm"):
        merge = Merge(request).__enter__()
    try:
        print_plan(console, merge, algorithm.name)
        with new_directory(out) as directory:
            report = write_with_progress(console, merge, directory)
            carry_over(seed_model, directory)
            if request.dtype is not None:
                set_dtype(directory, request.dtype)
            (directory / "algorithm.py").write_text(text, encoding="utf-8", newline="\n")
            name = f"{algorithm.stem} ({hashlib.sha256(text.encode()).hexdigest()[:12]})"
            write_card(directory, Card(out.name, name, text, parents(seed_model, sources), request, report))
    finally:
        merge.__exit__(None, None, None)
    line(console, f"merged model: {out}")
    if smoke:
        print_smoke(console, smoke_test(str(out), seed_model, general_prompts(str(out), seed_model)))


def print_plan(console: Console, merge: Any, algorithm: str) -> None:
    """Warnings, then how it will be done and what it needs."""
    from selfdev.apply.memory import available_bytes

    plan, request = merge.plan, merge.request
    for warning in plan.warnings:
        line(console, warning)
    free = available_bytes()
    table = Table(title="plan", title_justify="left", show_header=False)
    table.add_row("algorithm", algorithm)
    table.add_row("models", f"{request.seed} and {len(request.sources)} sources")
    table.add_row("merged", f"{plan.parameters} parameters, {plan.elements / 1e6:,.1f} million values each model")
    table.add_row("way", f"{plan.way}: {plan.reason}")
    known = "" if free is None else f"; {free / 2**30:.1f} GiB are available"
    table.add_row("peak memory", f"about {plan.peak_bytes / 2**30:.2f} GiB{known}")
    console.print(table)
    from selfdev.apply.memory import resident_bytes

    if free is not None and plan.peak_bytes - resident_bytes() > free:
        line(
            console, "warning: this is more memory than is available; --scope mlp needs less, another machine has more"
        )


def write_with_progress(console: Console, merge: Any, directory: Path) -> Any:
    """Merge, and say how fast it was."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    began = time.perf_counter()
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("merging", total=merge.plan.elements)
        report = merge.write(directory, lambda done, total: bar.update(task, completed=done))
    seconds = time.perf_counter() - began
    if report.note:
        line(console, report.note)
    size = f"{report.weight_bytes / 1e9:.2f} GB in {len(report.files)} file{'s' * (len(report.files) > 1)}"
    line(console, f"{report.way}: {size}, {seconds:.1f} s; sandbox isolation: {report.isolation}")
    return report


def read_algorithm(path: Path) -> str:
    """The text of an algorithm file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the algorithm {path}: {getattr(error, 'strerror', None) or error}") from None


def prepare(threads: int | None) -> None:
    """Thread counts and telemetry, before models are opened.

    Raises:
        UsageError: fewer than one thread.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads given; at least 1 is needed")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def torch_dtype(name: str) -> Any:
    """None for "auto".

    Raises:
        UsageError: unknown name.
    """
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}; allowed: {', '.join(DTYPES)}")
    import torch

    return None if name == "auto" else getattr(torch, name)


def shard_bytes(gigabytes: float) -> int:
    """Bytes of the largest file.

    Raises:
        UsageError: not positive.
    """
    if not gigabytes > 0:
        raise UsageError(f"--shard-gb {gigabytes:g} given; it must be positive")
    return max(1, int(gigabytes * 10**9))


def line(console: Console, text: str) -> None:
    """Print a line in which nothing is markup: it holds paths."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _scope(given: list[str]) -> Any:
    return given[0] if given in (["all"], ["mlp"]) else tuple(given)


def _execution_seed(path: Path, given: str) -> int:
    """A number, or what the header of an algorithm file of a run says."""
    if given != "auto":
        if not given.isdecimal() or int(given) >= 2**64:
            raise UsageError(f"--execution-seed {given!r} given; allowed: auto, or a whole number below 2^64")
        return int(given)
    for text in path.read_text("utf-8").splitlines():
        if not text.startswith("#"):
            break
        key, _, value = text.removeprefix("# ").partition(": ")
        if key == "execution seed" and value.split(" ")[0].isdecimal():
            return int(value.split(" ")[0])
    return 0
