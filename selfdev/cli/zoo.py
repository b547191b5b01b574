"""`selfdev zoo`: the embedded models and how they are built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from selfdev.errors import UsageError

app = typer.Typer(help="The embedded models and how they are built.", no_args_is_help=True, rich_markup_mode=None)

PARTS = ("solvers", "generator")


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
    only: Annotated[str | None, typer.Option("--only", help="solvers or generator; default both.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of data and weights; the shipped ones use 0.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the long training starts.")] = False,
) -> None:
    """Rebuild the embedded models from nothing: seeded, about two hours on two CPU cores."""
    if only is not None and only not in PARTS:
        raise UsageError(f"--only got {only!r}; allowed: {', '.join(PARTS)}")
    console = Console()
    console.print(
        "building the zoo trains small models on the CPU: about 30 minutes for the solvers, 90 for the generator"
    )
    if not yes:
        typer.confirm("start?", abort=True)
    from selfdev.zoo.generator import build_generator
    from selfdev.zoo.solver import build_solvers

    builders = {"solvers": build_solvers, "generator": build_generator}
    for name, builder in builders.items():
        if only in (None, name):
            figures = builder(out, seed=seed, progress=console.print)
            console.print_json(json.dumps(figures, default=str))
