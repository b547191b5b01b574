"""`selfdev transfer`: what a run found, on other siblings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from selfdev.cli.apply import Command as SourcesCommand
from selfdev.cli.run import plain
from selfdev.cli.show import RunPath
from selfdev.cli.test import begun

Command = SourcesCommand  # `--sources A B C`


def transfer(
    run: RunPath,
    sources: Annotated[
        list[str], typer.Option("--sources", help="Other models fine-tuned from the seed, in order: --sources A B C.")
    ],
    seed_model: Annotated[
        str | None, typer.Option("--seed-model", "-m", help="Another seed of these sources; default: the run's.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the run's best programs.")] = 15,
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget", min=1, help="Question-evaluations to re-tune baselines; default: 150 programs' worth."
        ),
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--methods", help="Re-tune these alone; may be repeated. Default: all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A run directory of its own; default RUN/transfer-HASH.")
    ] = None,
) -> None:
    """Try a run's best programs on other models, beside human-designed merges that are re-tuned there."""
    from selfdev import baselines
    from selfdev import transfer as core
    from selfdev.evaluation import check_ended
    from selfdev.methods import NAMES
    from selfdev.report.transfer import transfer_report
    from selfdev.rundir import read_run_config
    from selfdev.store import FILE_NAME, Store
    from selfdev.study import cost_line
    from selfdev.tuning import tuned_table

    console = Console()
    own = read_run_config(run)
    config = core.config_for(own, sources, seed_model)
    retuned = methods or list(NAMES)
    core.check_methods(retuned)
    tuning = core.tuning_budget(config, retuned, budget)
    path = out or run / core.directory_name(config)
    store = Store(run / FILE_NAME, read_only=True)
    try:
        check_ended(store, own)
        named, openings = core.entrants(store, top), store.openings()
        config = core.on_fresh(config)
        count = core.evaluations(config, len(baselines.table(config.models.sources)) + 1, len(named), tuning)
        cost = cost_line(store, count)
    finally:
        store.close()
    for warning in core.warnings_for(own, sources):
        plain(console, f"warning: {warning}")
    plain(console, f"{len(named)} programs, named before any question: {' '.join(e.id for e in named)}")
    plain(console, f"{cost}; {tuning} of them to tune baselines")
    plain(console, f"run directory: {path}")
    with begun(path, config, console) as work:
        core.transfer(work, named, tuning, retuned, openings)
        console.print(transfer_report(work.store))
        console.print(tuned_table(work, retuned))
        opened = work.store.openings()
    if not opened:
        plain(console, f"registered; the test set is sealed, to open it: selfdev test {path}")
