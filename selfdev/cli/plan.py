"""`selfdev plan`: what a run will hold phase by phase, how long a GPU would take, what to set where it cannot fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from selfdev.cli.config import Assignments, ConfigFile, Device, Iterations, Preset, Samples, Seed, resolve
from selfdev.config import RunConfig
from selfdev.errors import StageError

if TYPE_CHECKING:
    from selfdev.plan import Plan, Shape

_GB = 1e9


def plan(
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    seed: Seed = None,
    iterations: Iterations = None,
    samples: Samples = None,
    device: Device = None,
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", min=1.0, help="GB of the card; a run that needs more is refused.")
    ] = None,
) -> None:
    """Print what a run will hold and take. Exit 1 where it cannot fit, with the setting that would."""
    resolved = resolve(preset, config, assignments, seed, iterations, samples, device)
    console = Console()
    made, seed_shape, generator_shape = build(resolved)
    console.print(_memory_table(made))
    console.print(_token_table(made))
    console.print(_time_table(made, resolved, seed_shape, generator_shape, gpu_memory))
    for warning in _model_warnings(resolved):
        console.print(warning, markup=False, highlight=False, soft_wrap=True)
    if gpu_memory is not None:
        check(resolved, made, gpu_memory)
        console.print(f"fits: {made.peak / _GB:.1f} of {gpu_memory:g} GB", highlight=False)


def build(config: RunConfig) -> tuple[Plan, Shape, Shape]:
    """The plan of a configuration, with the shapes of seed and generator.

    Raises:
        ModelError: the size of a model is not known here.
        UsageError: the scope matches none of the seed's parameters, or there is no such prompt.
    """
    from selfdev import baselines
    from selfdev.architectures import read_shape
    from selfdev.generate import extract_program
    from selfdev.plan import ASKING, make_plan, workload
    from selfdev.prompting import render_prompt

    scope = config.models.scope
    seed = read_shape(config.models.seed, config.models.dtype, scope if isinstance(scope, str) else list(scope))
    generator = read_shape(config.generate.model, config.generate.dtype)
    asked = config.gap.model if set(ASKING) & set(config.gap.verifiers) else None
    judge = None if asked is None else read_shape(asked, config.generate.dtype)
    prompt = render_prompt(config.generate.prompt)
    scored = baselines.table(config.models.sources, extract_program(prompt))
    made = make_plan(config, seed, generator, workload(config, len(prompt), len(scored)), judge)
    return made, seed, generator


def check(config: RunConfig, made: Plan, gigabytes: float) -> None:
    """Refuse a plan whose peak is above a card's memory.

    Raises:
        StageError: it cannot fit; the message names what needs most and the settings that would fit.
    """
    from selfdev.plan import fit, with_settings

    if made.peak <= gigabytes * _GB:
        return
    worst = max(made.phases, key=lambda phase: phase.peak)
    needs = f"phase {worst.name} needs {worst.peak / _GB:.1f} GB, the card has {gigabytes:g}"
    settings = fit(config, gigabytes * _GB, build)
    if settings is None:
        raise StageError(f"{needs}, and no setting known here makes it fit; take smaller models or a larger card")
    peak = build(with_settings(config, settings))[0].peak
    flags = " ".join(f"--set {key}={_text(value)}" for key, value in settings.items())
    raise StageError(f"{needs}; this would fit ({peak / _GB:.1f} GB): {flags}")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _memory_table(made: Plan) -> Table:
    table = Table(title="resident, in GB (10^9 bytes)", title_justify="left")
    for name in ("phase", "what"):
        table.add_column(name)
    for name in ("device", "main memory"):
        table.add_column(name, justify="right")
    for phase in made.phases:
        for number, item in enumerate(phase.items):
            size = f"{item.bytes / _GB:.2f}"
            table.add_row("" if number else phase.name, item.what, *(("", size) if item.host else (size, "")))
        table.add_row("", "peak", f"{phase.peak / _GB:.2f}", f"{phase.host / _GB:.2f}", style="bold", end_section=True)
    return table


def _token_table(made: Plan) -> Table:
    work = made.work
    table = Table(title="tokens at most (prompts: typical)", title_justify="left", show_header=False)
    answers = work.rows * work.answer
    table.add_row("an evaluation", f"{work.rows} questions x {work.answer} = {answers:,} generated")
    table.add_row("its prompts", f"{work.shared} shared + {work.rows} x {work.own}")
    table.add_row("evaluations", f"{work.evaluations:,.0f}, {work.evaluations * answers:,.0f} tokens in all")
    table.add_row(
        "programs", f"{work.samples:,} x {work.program} = {work.samples * work.program:,}, prompt {work.prompt}"
    )
    if work.measured:
        table.add_row(
            "for the gap", f"{work.measured:,} x {work.program} = {work.measured * work.program:,}, measured only"
        )
    table.add_row("trained", f"{work.pairs:,} pairs x 2 x {work.prompt + work.program}")
    return table


def _time_table(made: Plan, config: RunConfig, seed: Shape, generator: Shape, gpu_memory: float | None) -> Table:
    from selfdev.plan_time import DEVICES, seconds

    table = Table(title="hours on a GPU (estimated, not measured)", title_justify="left")
    table.add_column("device")
    for name in ("evaluate", "generate", "train", "in all"):
        table.add_column(name, justify="right")
    alike = [d for d in DEVICES if d.gigabytes == gpu_memory]
    for kind in alike or DEVICES:
        phases = seconds(made, config, seed, generator, kind)
        hours = [value / 3600 for value in phases.values()]
        table.add_row(kind.name, *(f"{value:.2f}" for value in (*hours, sum(hours))))
    return table


def _model_warnings(config: RunConfig) -> list[str]:
    """Findings about models that are here; a hub id is not fetched for this."""
    from pathlib import Path

    from selfdev.models import resolve as directory_of
    from selfdev.preflight import preflight

    refs = (config.models.seed, *config.models.sources, config.generate.model)
    away = [ref for ref in refs if not Path(directory_of(ref)).is_dir()]
    if away:
        return [f"not checked, as it is not a directory here: {', '.join(dict.fromkeys(away))}"]
    return [str(finding) for finding in preflight(config)]
