"""An ablation for people: what every removal showed, and the simplest program with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from selfdev.ablation import LEVEL, Ablation, Finding, Simplest, Worth
from selfdev.power import resolvable_difference
from selfdev.program_edits import size
from selfdev.report.tables import printable
from selfdev.stats import mcnemar, paired_interval
from selfdev.study import asked_line, unfair, write_program


def ablation_report(found: Ablation) -> RenderableType:
    """The table, the questions, the simplest program."""
    study = found.study
    head = Text("no removal had to be asked")
    if study.questions:
        head = Text(f"questions: {asked_line(study)}; {found.spent} question-evaluations")
    parts: list[RenderableType] = [_table(found), head, Text(_resolution(found), style="dim"), Text()]
    parts.append(Text(simplest_sentence(found), style="bold"))
    if found.simplest.edits:
        parts.append(Syntax(printable(found.simplest.source).strip("\n"), "python", word_wrap=True))
    return Group(*parts)


def _table(found: Ablation) -> Table:
    original = found.study.of.id
    table = Table(title=f"{original} with one part removed, against itself", title_justify="left", box=box.SIMPLE_HEAD,
                  pad_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
    table.add_column("line", justify="right", no_wrap=True)
    table.add_column("removal", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("difference, 95 %", overflow="fold", min_width=16, max_width=24)
    table.add_column("won-lost", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    for finding in found.findings:
        table.add_row(str(finding.edit.line), *map(Text, (printable(finding.edit.text), *_cells(finding))))
    table.caption = "not worse: not resolvably; p: exact McNemar, adjusted for all removals that were asked (Holm)"
    table.caption_justify = "left"
    return table


def _cells(f: Finding) -> tuple[str, str, str, str]:
    if f.worth is Worth.FAILS:
        return str(f.worth), printable(f.error)[:60], "", ""
    if f.worth is Worth.IDENTICAL:
        return str(f.worth), "", "", ""
    low, high = f.interval
    return str(f.worth), f"{f.difference:+.3f}\n{low:+.3f} to {high:+.3f}", f"{f.wins}-{f.losses}", f"{f.p_value:.2g}"


def _resolution(found: Ablation) -> str:
    asked = [f for f in found.findings if f.questions]
    if not asked:
        return ""
    shares = sorted((f.wins + f.losses) / f.questions for f in asked)
    middle, merges = shares[len(shares) // 2], len(_merges(found, asked))
    least = resolvable_difference(asked[0].questions, middle, level=LEVEL / merges) if middle else None
    seen = "nothing" if least is None else f"losses of {least:.3f} or more"
    return (
        f"so many questions show, 4 times in 5 and at {LEVEL:g} / {merges} for the {merges} merges asked, "
        f"{seen} (at {middle:.2f} discordant, the median)"
    )


def _merges(found: Ablation, asked: Sequence[Finding]) -> set[str]:
    """The merges that were asked; several removals may give one."""
    rows = map(found.study.store.candidate, (f.candidate for f in asked))
    return {row.duplicate_of or row.id for row in rows}


def simplest_sentence(found: Ablation) -> str:
    """What the simplest program is, and on what evidence."""
    return _said(found) + ("" if found.simplest.identical and not found.simplest.given_up else unfair(found.study))


def _said(found: Ablation) -> str:
    s, of = found.simplest, found.study.of
    assert of.source is not None
    before, after = size(of.source), size(s.source)
    if not s.edits:
        return f"nothing can be taken from {of.id}: it is its own simplest program here{_given_up(s)}"
    shrunk = f"{len(s.edits)} removals, {before} -> {after} syntax nodes"
    if s.identical:
        return f"simplest: {s.candidate} ({shrunk}): the same merge, so no question is needed{_given_up(s)}"
    low, high = paired_interval(s.wins, s.losses, s.questions)
    left = f"; a loss of {-low:.3f} is not excluded (a larger --budget tells)" if low < 0 else ""
    return (
        f"simplest: {s.candidate} ({shrunk}): not resolvably worse than {of.id} on {s.questions} held-out questions, "
        f"{s.difference:+.3f}, 95 % {low:+.3f} to {high:+.3f} ({s.wins} won, {s.losses} lost, "
        f"p {mcnemar(s.wins, s.losses):.2g}){left}"
    )


def _given_up(s: Simplest) -> str:
    if not s.given_up:
        return ""
    return f"; {s.given_up}, smaller, was worse on held-out questions ({s.wins} won, {s.losses} lost)"


def write_simplest(run: Path, found: Ablation) -> Path | None:
    """The simplest program as an algorithm file; None where it is the original."""
    s, of = found.simplest, found.study.of
    if not s.edits:
        return None
    removed = {f"removal {number}": f"line {edit.line}: {edit.text}" for number, edit in enumerate(s.edits, start=1)}
    path = run / "algorithms" / f"simplest-of-{of.id}.py"
    row = found.study.store.candidate(s.candidate)
    write_program(path, found.study, "simplified from", row, simplest_sentence(found), removed)
    return path
