"""A polish for people: the constants before and after, what both arms spent, and what held-out questions say."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfdev.polish import Comparison, Polished, Tuned
from selfdev.power import Verdict
from selfdev.program_edits import Constant, constants
from selfdev.report.tables import printable
from selfdev.stats import paired_interval
from selfdev.study import asked_line, unfair, write_program


def constants_table(listed: tuple[Constant, ...] | list[Constant], after: list[Constant] | None = None) -> Table:
    """The constants that are tuned, and what became of them."""
    table = Table(title="constants", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("line", justify="right")
    table.add_column("in", overflow="fold", min_width=30)
    for column in ("as it is", *(() if after is None else ("polished",))):
        table.add_column(column, justify="right")
    for number, c in enumerate(listed):
        later = [] if after is None else [f"{after[number].value:g}"]
        table.add_row(str(c.line), Text(printable(c.statement)), f"{c.value:g}", *later)
    return table


def polish_report(found: Polished) -> RenderableType:
    """Constants, the two arms, the verdict."""
    study = found.study
    assert found.program.row.source is not None
    assert study.of.source is not None
    changed = zip(constants(study.of.source), constants(found.program.row.source), strict=True)
    after = [new for old, new in changed if old in found.constants]
    questions = Text(f"questions: {asked_line(study)}")
    return Group(
        constants_table(found.constants, after), _arms(found), questions, Text(), Text(sentence(found), style="bold")
    )


def _arms(found: Polished) -> Table:
    table = Table(
        title="the same budget for both",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("tuned, its best", overflow="fold", min_width=15)
    for column in ("settings", "dropped", "failed", "spent", "gain", "held out"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, arm in ((found.study.of.id, found.program), ("Task Arithmetic", found.control)):
        verdicts = found.study.verdicts(arm.row, found.study.held_out)
        share = f"{sum(map(bool, verdicts))}/{len(verdicts)}"
        table.add_row(f"{name}\n{_best(arm)}", str(arm.trials), str(arm.dropped), str(arm.failed), str(arm.spent),
                      f"{arm.gain:+.3f}", share)  # fmt: skip
    before = found.study.verdicts(found.original, found.study.held_out)
    table.caption = (
        f"gain: where it was chosen, over the setting that each began with, too good for the best of many. Held out, "
        f"{found.study.of.id} as it is answers {sum(map(bool, before))}/{len(before)}"
    )
    table.caption_justify = "left"
    return table


def _best(arm: Tuned) -> str:
    return arm.row.name if arm.gain > 0 else "as it is"


def sentence(found: Polished) -> str:
    """What may be said, on held-out questions."""
    return _said(found) + unfair(found.study)


def _said(found: Polished) -> str:
    of = found.study.of.id
    if found.program.gain <= 0:
        return f"no setting did better than {of} as it is; tuned Task Arithmetic against it: {_against(found, True)}"
    against = found.against_original
    word = {
        Verdict.BETTER: f"{found.program.row.id} is better than {of} as it is",
        Verdict.WORSE: f"{found.program.row.id} is worse than {of} as it is",
        Verdict.NOT_RESOLVED: f"{found.program.row.id} is not resolvably better than {of} as it is",
    }[against.verdict]
    return f"{word}: {_words(against)}; against tuned Task Arithmetic: {_against(found, False)}"


def _against(found: Polished, turned: bool) -> str:
    c = found.against_control
    if turned:
        c = Comparison(c.losses, c.wins, c.questions, c.p_value)
    return f"{c.verdict}, {_words(c)}"


def _words(c: Comparison) -> str:
    low, high = paired_interval(c.wins, c.losses, c.questions)
    return (
        f"{c.difference:+.3f} on {c.questions} held-out questions, 95 % {low:+.3f} to {high:+.3f} ({c.wins} won, "
        f"{c.losses} lost, p {c.p_value:.2g}, Holm over both comparisons)"
    )


def write_polished(run: Path, found: Polished) -> Path | None:
    """The polished program as an algorithm file; None where nothing did better."""
    row, of = found.program.row, found.study.of
    if found.program.gain <= 0:
        return None
    path = run / "algorithms" / f"polished-{of.id}.py"
    write_program(path, found.study, "polished from", row, sentence(found), {})
    return path
