"""`selfdev config`: print what a run would use. Also the options every command shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from selfdev.config import RunConfig, load_config, parse_assignments

Preset = Annotated[
    str | None, typer.Option("--preset", "-p", help="A shipped configuration: demo, smollm2-generator, ...")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file instead of a preset.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="KEY=VALUE, for example train.beta=0.05. Repeatable.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of every random stream.")]
Iterations = Annotated[int | None, typer.Option("--iterations", "-i", help="Turns of the loop.")]
Samples = Annotated[int | None, typer.Option("--samples", "-n", help="Programs drawn per iteration.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


def resolve(
    preset: str | None,
    file: Path | None,
    assignments: list[str] | None,
    seed: int | None,
    iterations: int | None,
    samples: int | None,
    device: str | None,
) -> RunConfig:
    """Defaults < preset or file < --set < the named flags."""
    overrides: dict[str, Any] = parse_assignments(assignments or [])
    flags = {"seed": seed, "iterations": iterations, "generate.samples": samples, "device": device}
    overrides |= {key: value for key, value in flags.items() if value is not None}
    return load_config(preset, file, overrides)


def show_config(
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    seed: Seed = None,
    iterations: Iterations = None,
    samples: Samples = None,
    device: Device = None,
) -> None:
    """Print the resolved configuration as JSON."""
    typer.echo(resolve(preset, config, assignments, seed, iterations, samples, device).to_json(), nl=False)
