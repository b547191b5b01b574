"""`selfdev export`: take an algorithm of a run away, or the run's preference pairs."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from selfdev.cli.apply import line, prepare, print_plan, shard_bytes, write_with_progress
from selfdev.errors import UsageError

if TYPE_CHECKING:
    from selfdev.export.candidate import Exported

TARGETS = ("model", "python", "mergekit", "pairs")


def export(
    run: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")],
    candidate: Annotated[
        str | None,
        typer.Argument(
            help="An algorithm's id, its beginning, or winner, seed, baseline; default: winner.", metavar="[ID]"
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="model: merged weights with a card; python: one file, plain PyTorch; mergekit: YAML, and a module "
            "where the rule is not linear; pairs: the run's preference data set.",
        ),
    ] = "model",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory (python: file) to write; must not exist yet.")
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact/--closed-form", help="model: the algorithm's own steps, or one pass where it is linear."),
    ] = True,
    shard_gb: Annotated[float, typer.Option("--shard-gb", help="model: largest file of weights, in GB.")] = 5.0,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: the run's.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke/--no-smoke", help="model: ask it ten questions.")] = True,
) -> None:
    """Export an algorithm of a run as a model, a Python file or a mergekit recipe, or the preference pairs."""
    if to not in TARGETS:
        raise UsageError(f"--to {to!r} given; allowed: {', '.join(TARGETS)}")
    console = Console()
    if to == "pairs":
        if candidate is not None:
            raise UsageError(f"--to pairs exports the whole run; leave {candidate!r} out")
        _pairs(run, out or Path(f"{run.name}-pairs"), console)
        return
    size = shard_bytes(shard_gb)
    prepare(threads)
    from selfdev.export.candidate import read_candidate

    found = read_candidate(run, candidate)
    if threads is None:
        prepare(found.config["threads"])
    if to == "model":
        _model(found, out or Path(f"selfdev-{found.row.id}"), exact, size, smoke, console)
    elif to == "python":
        _python(found, out or Path(f"merge_{found.row.id}.py"), console)
    else:
        _mergekit(found, out or Path(f"mergekit-{found.row.id}"), console)


def _model(found: Exported, out: Path, exact: bool, size: int, smoke: bool, console: Console) -> None:
    from selfdev.apply.merge import Merge, set_dtype
    from selfdev.apply.output import carry_over, check_new, new_directory
    from selfdev.export.card import Card, parents, write_card

    check_new(out)
    request = found.request(exact, size)
    with console.status("looking at the models and the algorithm"):
        merge = Merge(request).__enter__()
    try:
        print_plan(console, merge, found.name)
        with new_directory(out) as directory:
            report = write_with_progress(console, merge, directory)
            carry_over(request.seed, directory)
            if request.dtype is not None:
                set_dtype(directory, request.dtype)
            (directory / "algorithm.py").write_text(found.source, encoding="utf-8", newline="\n")
            notes = [_same_bits(report.result_hash, found.row.result_hash)]
            line(console, notes[0])
            card = Card(
                title=out.name,
                algorithm_name=found.name,
                algorithm=found.source,
                parents=parents(request.seed, request.sources),
                request=request,
                report=report,
                scores=found.scores,
                run_seed=found.config["seed"],
                notes=notes,
            )
            write_card(directory, card)
    finally:
        merge.__exit__(None, None, None)
    line(console, f"merged model: {out}")
    if smoke:
        _smoke(found, str(out), console)


def _same_bits(made: str | None, recorded: str | None) -> str:
    """Whether the weights are those that were scored."""
    if recorded is None:
        return "The run did not record the bits of this merge (it was not run there, or repeats an earlier one)."
    if made is None:
        return "Merged by its closed form: the weights differ from those that were scored by rounding only."
    if made == recorded:
        return "The merged task vector has the very bits that were scored in the run."
    return (
        "The merged task vector does not have the bits that were scored in the run: another machine, other versions or "
        "threads round differently, and other models differ. Compare the parents' hashes before you rely on the scores."
    )


def _smoke(found: Exported, model: str, console: Console) -> None:
    """With dev questions of the run's own task, so that any model of the run understands them."""
    from selfdev.config import RunConfig
    from selfdev.errors import SelfdevError
    from selfdev.export.smoke import PROMPTS, general_prompts, print_smoke, smoke_test

    seed = found.config["models"]["seed"]
    prompts, stop = general_prompts(model, seed), list[str]()
    try:
        from selfdev.tasks import load_task

        config = RunConfig.model_validate_json(_json(found.config))
        task = load_task(config.task, config.seed)
        prompts, stop = [question.prompt for question in task.dev[:PROMPTS]], list(task.stop)
    except (SelfdevError, ValueError) as error:
        line(console, f"smoke test with general prompts: the run's questions are not here ({str(error)[:200]})")
    print_smoke(console, smoke_test(model, seed, prompts, stop))


def _json(values: dict[str, Any]) -> str:
    import json

    return json.dumps(values)


def _python(found: Exported, out: Path, console: Console) -> None:
    from selfdev import __version__
    from selfdev.apply.merge import Merge
    from selfdev.apply.output import check_new
    from selfdev.export.card import parents
    from selfdev.export.python import Script, script_text
    from selfdev.rundir import write_atomic

    check_new(out)
    request = found.request(exact=True, shard_bytes=1)
    with console.status("looking at the models and the algorithm"), Merge(request) as merge:
        alone = merge.alone()
        names = list(merge.parameters)
    made_from = parents(request.seed, request.sources)
    provenance = [
        f"algorithm   {found.name}, SHA-256 {hashlib.sha256(found.source.encode()).hexdigest()}",
        *(f"{'seed' if i == 0 else f'source {i}':11s} {p.name}, SHA-256 {p.sha256}" for i, p in enumerate(made_from)),
        *_score_lines(found),
        f"written by  selfdev {__version__}",
    ]
    script = Script(
        algorithm=found.source,
        provenance=provenance,
        seed=_reference(request.seed),
        sources=[_reference(ref) for ref in request.sources],
        patterns=_patterns(request.scope),
        execution_seed=request.execution_seed,
        parameters=None if alone else names,
    )
    write_atomic(out, script_text(script))
    line(console, f"merge script: {out} ({'one parameter at a time' if alone else 'all parameters at once'})")
    line(console, f"python {shlex.quote(str(out))} --help")


def _mergekit(found: Exported, out: Path, console: Console) -> None:
    import torch

    from selfdev.apply.merge import Merge
    from selfdev.apply.output import check_new, new_directory
    from selfdev.export.mergekit import Recipe, write_recipe
    from selfdev.models import parameter_groups

    check_new(out)
    request = found.request(exact=False, shard_bytes=1)
    with console.status("looking at the models and the algorithm"), Merge(request) as merge:
        study, parameters = merge.study, merge.parameters
    groups = parameter_groups(request.seed)
    widest: torch.dtype = max((p.dtype for p in parameters.values()), key=lambda dtype: dtype.itemsize)
    recipe = Recipe(
        id=found.row.id,
        algorithm=found.source,
        seed=_reference(request.seed),
        sources=[_reference(ref) for ref in request.sources],
        parameters=parameters,
        aliases={name: groups[name][1] for name in parameters},
        scope=request.scope,
        out_dtype=str(widest).removeprefix("torch."),
        execution_seed=request.execution_seed,
        coefficients=study.coefficients,
        obstacle=study.obstacle,
        alone=study.alone,
    )
    with new_directory(out) as directory:
        command = write_recipe(directory, recipe)
    line(console, f"mergekit recipe: {out} ({'plain YAML' if study.coefficients is not None else 'module and YAML'})")
    line(console, f"cd {shlex.quote(str(out))} && {' '.join(command)}")


def _pairs(run: Path, out: Path, console: Console) -> None:
    from selfdev.apply.output import check_new, new_directory
    from selfdev.export.pairs import read_pairs, write_data_set
    from selfdev.rundir import read_saved_config

    config: dict[str, Any] = dict(read_saved_config(run))
    check_new(out)
    rows = read_pairs(run)
    with new_directory(out) as directory:
        write_data_set(directory, rows, config, out.name)
    line(console, f"{len(rows)} preference pairs: {out}")


def _score_lines(found: Exported) -> list[str]:
    told = []
    for split, score in (("dev", found.scores.dev), ("test", found.scores.test)):
        if score is not None and score.total:
            low, high = score.interval
            told.append(
                f"{split:11s} {score.correct}/{score.total} = {score.correct / score.total:.4f} "
                f"(95 % {low:.4f} to {high:.4f})"
            )
    return told


def _reference(ref: str) -> str:
    """How others open a model: a hub id as it is, everything else as a directory."""
    from selfdev.models import resolve

    found = resolve(ref)
    return str(Path(found).absolute()) if Path(found).is_dir() else found


def _patterns(scope: Any) -> list[str]:
    if scope == "all":
        return ["*"]
    return ["*.mlp.*"] if scope == "mlp" else list(scope)
