"""`selfdev run`: begin a run, or continue it when its directory exists."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from selfdev.cli.config import Assignments, ConfigFile, Device, Iterations, Preset, Samples, Seed, resolve
from selfdev.config import RunConfig
from selfdev.errors import StageError
from selfdev.forecast import Forecast


def run(
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    seed: Seed = None,
    iterations: Iterations = None,
    samples: Samples = None,
    device: Device = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where the run lies; default runs/PRESET-seedN.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the forecast, stop.")] = False,
    stop_when_converged: Annotated[
        bool, typer.Option("--stop-when-converged", help="End as soon as the gap advises it; see `selfdev gap`.")
    ] = False,
) -> None:
    """Search for merge algorithms. The same command on an existing run directory continues it."""
    if stop_when_converged:
        assignments = [*(assignments or []), "gap.stop_when_converged=true"]
    resolved = resolve(preset, config, assignments, seed, iterations, samples, device)
    directory = run_dir or default_directory(preset, config, resolved)
    console = Console()
    execute(resolved, directory, console, dry_run)


def execute(config: RunConfig, path: Path, console: Console, dry_run: bool = False) -> None:
    """Check, forecast, run.

    Raises:
        SelfdevError: bad input, an unusable run directory, or no candidate that could be scored.
    """
    prepare_process(config)
    from selfdev import forecast, loop, preflight
    from selfdev.report.live import RunView
    from selfdev.rundir import RunDirectory
    from selfdev.wiring import build_parts

    with RunDirectory(path, config) as directory:
        with console.status("loading models, measuring one evaluation and one batch of samples"):
            found = preflight.check(config)
            parts = build_parts(config)
            expected = None if directory.begun and not dry_run else forecast.measure(config, parts)
        for warning in [*map(str, found), *(f"warning: {note}" for note in parts.task.notes)]:
            plain(console, warning)
        if expected is not None:
            console.print(forecast_table(config, expected))
        if dry_run:
            return
        plain(console, f"{'continuing' if directory.begun else 'run directory'}: {path}")
        directory.begin()
        loop.run(config, directory, parts, RunView(console))
        if "winner" not in directory.store.winners():
            drawn = len(directory.store.candidates(kind="generated"))
            raise StageError(
                f"all {drawn} candidates failed or repeated a baseline, so there is no algorithm to test; "
                f"`selfdev show {path}` shows why"
            )
        winner = directory.store.winners()["winner"]
    plain(console, f"algorithms: {path / 'algorithms'}")
    plain(console, f"the best on dev: selfdev show {path} {winner}")
    plain(console, f"the test set is sealed; to open it: selfdev test {path}")


def plain(console: Console, text: str) -> None:
    """Print a line in which nothing is markup: it holds paths."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def prepare_process(config: RunConfig) -> None:
    """Thread counts and telemetry, before torch is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(config.threads)


def default_directory(preset: str | None, file: Path | None, config: RunConfig) -> Path:
    """runs/NAME-seedN, where NAME is the preset or the file's stem."""
    name = file.stem if file is not None else preset or "demo"
    return Path("runs") / f"{name}-seed{config.seed}"


def forecast_table(config: RunConfig, expected: Forecast) -> Table:
    """What the run will cost."""
    table = Table(title="forecast", title_justify="left", show_header=False)
    evaluations = expected.baseline_evaluations + expected.candidate_evaluations
    table.add_row("dev", dev_text(config, expected.questions))
    table.add_row("candidates", f"{config.iterations} x {config.generate.samples} = {expected.samples}")
    if expected.measured_samples:
        table.add_row("gap", gap_text(config, expected.measured_samples))
    table.add_row(
        "evaluations",
        f"{expected.baseline_evaluations} baselines and finals + at most {expected.candidate_evaluations} candidates = "
        f"{evaluations}, each {'at most ' if config.race.enabled else ''}{expected.questions} questions",
    )
    table.add_row(
        "measured", f"{expected.evaluation_seconds:.2f} s an evaluation, {expected.sample_seconds:.3f} s a sample"
    )
    judging, training = (seconds / 60 for seconds in (expected.judge_seconds, expected.train_seconds))
    table.add_row("training", f"about {training:.1f} minutes in all, and {judging:.1f} of judging (estimated)")
    low, high = expected.minutes(0.1), expected.minutes(1.0)
    table.add_row(
        "minutes", f"{low:.1f} to {high:.1f} (10 % to all of the samples valid and new; on the machine as it is)"
    )
    table.add_row("sandbox", f"isolation {expected.isolation}")
    table.add_row("can resolve", power_text(config, expected))
    return table


def dev_text(config: RunConfig, questions: int) -> str:
    """Which dev questions are asked."""
    blocks = "one block for all iterations"
    if config.blocks > 1:
        blocks = f"{config.blocks} blocks: one per iteration, one of baselines and finals"
    from selfdev.evaluation import held_out_count

    held = held_out_count(config, questions)
    race = f"; race with {held} of them held out" if config.race.enabled else ""
    return f"{questions} questions, {blocks}{race}"


def gap_text(config: RunConfig, samples: int) -> str:
    """How many samples are drawn for measurement, and where."""
    count = config.gap.inside
    inside = f" and at {count} point{'s' * (count > 1)} inside each training" if count else ""
    return f"{samples} more samples, measured only: {config.gap.samples} at each iteration{inside}"


def power_text(config: RunConfig, expected: Forecast) -> str:
    """Which differences the chosen sizes find 4 times in 5, for merges that disagree on 10 or 30 % of the questions."""
    from selfdev.evaluation import held_out_count
    from selfdev.power import resolvable_difference

    finals = expected.questions
    if config.race.enabled and config.blocks == 1:
        finals = held_out_count(config, expected.questions)
    parts = []
    for name, size in (("dev", finals), ("test", expected.test_questions)):
        least = [resolvable_difference(size, share) for share in (0.1, 0.3)]
        low, high = ("none" if d is None else f"{100 * d:.1f}" for d in least)
        parts.append(f"{name} ({size}): {low} to {high} points")
    return "; ".join(parts) + " (4 times in 5, at a discordance of 0.1 to 0.3)"
