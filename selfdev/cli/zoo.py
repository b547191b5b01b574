"""`selfdev zoo`: the embedded models and how they are built."""

from __future__ import annotations

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
    """Rebuild the embedded models from nothing: seeded, about an hour and a half on one CPU core."""
    if only is not None and only not in PARTS:
        raise UsageError(f"--only got {only!r}; allowed: {', '.join(PARTS)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; give another --out") from None
    console = Console()
    console.print("trains on one CPU core: about 10 minutes for the solvers, 60 to 80 for the generator")
    if not yes:
        typer.confirm("start?", abort=True)
    if only in (None, "solvers"):
        from selfdev.zoo.solver import build_solvers

        build_solvers(out, seed=seed, progress=console.print)
    if only in (None, "generator"):
        from selfdev.zoo.generator import build_generator

        build_generator(out / "generator", seed=seed, report=console.print)
    console.print(f"models and figures: {out}")
