"""`selfdev doctor`: does the seed agree with itself on this machine?"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from selfdev.cli.config import Assignments, ConfigFile, Device, Preset, Seed, resolve
from selfdev.cli.run import plain, prepare_process
from selfdev.config import RunConfig
from selfdev.tasks.base import Task
from selfdev.types import Completion, Question


def doctor(
    preset: Preset = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """A/A test: the seed answers one dev block twice, in another order and batch size; what differs is the noise floor.

    Greedy answers may differ where batches round differently; no gain below this floor means anything.
    """
    resolved = resolve(preset, config, assignments, seed, None, None, device)
    prepare_process(resolved)
    from selfdev.power import resolvable_difference
    from selfdev.score import score
    from selfdev.sealed import seal
    from selfdev.stats import discordant, paired_interval, wilson_interval
    from selfdev.wiring import load_run_task

    console = Console()
    task, _ = seal(load_run_task(resolved))
    questions = task.block(0)
    batch = resolved.evaluate.batch_size
    other = max(1, batch // 2 - 1)
    plain(
        console, f"{resolved.models.seed}: {len(questions)} dev questions, batches of {batch}, then {other} backwards"
    )
    first = _answers(resolved, task, questions, batch)
    second = _answers(resolved, task, questions[::-1], other)[::-1]
    a, b = ([row.correct for row in score(questions, texts, task.grade)] for texts in (first, second))
    wins, losses, asked = discordant(a, b)
    low, high = paired_interval(wins, losses, asked)
    share = wilson_interval(wins + losses, asked)
    table = Table(title="the seed against itself", title_justify="left", show_header=False)
    table.add_row("accuracy", f"{sum(a) / asked:.3f} and {sum(b) / asked:.3f}")
    texts = sum(x.text != y.text for x, y in zip(first, second, strict=True))
    table.add_row("texts that differ", f"{texts} of {asked}")
    table.add_row("verdicts that differ", f"{wins + losses} of {asked} (95 %: {share[0]:.3f} to {share[1]:.3f})")
    table.add_row("difference", f"{(wins - losses) / asked:+.3f}, 95 % {low:+.3f} to {high:+.3f}")
    least = resolvable_difference(asked, max(share[0], (wins + losses) / asked, 0.1))
    found = "none" if least is None else f"{least:.3f}"
    table.add_row("resolvable", f"differences of {found} or more, 4 times in 5, at a discordance of at least 0.1")
    console.print(table)


def _answers(config: RunConfig, task: Task, questions: Sequence[Question], batch_size: int) -> list[Completion]:
    from selfdev.wiring import open_evaluator, resolve_device

    changed = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"batch_size": batch_size})})
    evaluator = open_evaluator(changed, task, resolve_device(config.device))
    try:
        return evaluator.generate([question.prompt for question in questions])
    finally:
        evaluator.close()
