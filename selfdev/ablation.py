"""What in a discovered program matters: every constant, branch and statement removed in turn, and the simplest rest.

Each edit (`selfdev.program_edits`) is a program of its own. One that has the original's result bits needs
no questions, nor does one that fails; the budget goes to the others, which all answer the same questions. They are
compared by the exact McNemar test on the questions that only one of the two answers, with Holm's correction over
all of them: an edit that loses by it is essential, one that wins is better without; the rest is not resolvably worse,
which is no proof that it is as good.

Then edits are combined, one after another, into the simplest program: those that change no bit first, then by how the
edit alone did, then assignments that nothing reads any more; imports that nothing reads go with each. A combination
stays where it is smaller and is not worse than the ORIGINAL by the test without correction (which keeps more code than
the corrected one would), so small losses cannot add up beyond what the questions resolve. These decisions lean on the
same questions, so the simplest program and the original meet once more on held-out questions that no decision saw.
Where that says worse, the combination of the edits that change no bit is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from selfdev.errors import UsageError
from selfdev.evaluation import Run
from selfdev.power import Verdict, verdict
from selfdev.program_edits import Edit, apply, conflicts, edits, size, unread_imports, without_reader
from selfdev.stats import holm, mcnemar, paired_interval
from selfdev.store import CandidateRow
from selfdev.study import FEWEST, HELD_OUT, Ask, Study, asking, begin, copy_of, kind_of
from selfdev.types import ExecutionStatus

WHAT = "ablation"
MOST_QUESTIONS = 1000
LEVEL = 0.05
COMBINATIONS = 0.5  # share of the edits that may have to be tried in combination, for planning


class Worth(StrEnum):
    """What an edit shows about what it removes."""

    FAILS = "fails without"
    ESSENTIAL = "essential"
    NOT_WORSE = "not worse"  # not resolvably
    BETTER = "better without"
    IDENTICAL = "same merge"


@dataclass(frozen=True, slots=True)
class Finding:
    """One edit beside the original."""

    edit: Edit
    candidate: str
    worth: Worth
    wins: int = 0  # questions that only the edited program answers
    losses: int = 0
    questions: int = 0
    p_value: float = 1.0  # adjusted for all edits (Holm)
    error: str = ""

    @property
    def difference(self) -> float:
        """Accuracy of the edited program minus that of the original."""
        return (self.wins - self.losses) / self.questions if self.questions else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference, of one comparison."""
        return paired_interval(self.wins, self.losses, self.questions)


@dataclass(frozen=True, slots=True)
class Simplest:
    """The smallest program that the questions do not tell from the original."""

    candidate: str
    source: str
    edits: tuple[Edit, ...]
    identical: bool  # it gives the original's merge
    wins: int = 0  # on held-out questions
    losses: int = 0
    questions: int = 0
    given_up: str = ""  # id of a smaller combination that was worse on held-out questions

    @property
    def difference(self) -> float:
        """Accuracy of it minus that of the original."""
        return (self.wins - self.losses) / self.questions if self.questions else 0.0


@dataclass(frozen=True, slots=True)
class Ablation:
    """What an ablation found."""

    study: Study
    findings: tuple[Finding, ...]
    simplest: Simplest
    spent: int  # question-evaluations


def removals(source: str) -> list[Edit]:
    """What is removed in turn.

    Raises:
        UsageError: nothing can be.
    """
    found = edits(source)
    if not found:
        raise UsageError("the program has no constant, branch or statement that could be removed")
    return found


def check_budget(listed: Sequence[Edit], budget: int) -> None:
    """Refuse, before anything runs, a budget that would not reach if a single removal had to be asked.

    How many have to be is known once all have run: those that fail or repeat a merge need no question.

    Raises:
        UsageError: it does not reach.
    """
    least, most = least_budget(1), least_budget(len(listed))
    if budget < least:
        raise UsageError(
            f"--budget {budget} given; at least {least} question-evaluations are needed if one of the {len(listed)} "
            f"removals has to be asked, {most} if all have to be"
        )


def plan(asked: int, budget: int) -> int:
    """Questions of an ablation in which so many merges have to be asked, held-out ones included.

    Raises:
        UsageError: the budget does not reach.
    """
    least = least_budget(asked)
    if budget < least:
        raise UsageError(
            f"--budget {budget} given; {asked} merges to ask need at least {least} question-evaluations; the removals "
            "that have run are recorded and not run again"
        )
    deciding = max(fewest_deciding(asked), int(budget / _share(asked)))
    return min(MOST_QUESTIONS, round(deciding / (1 - HELD_OUT)))


def least_budget(asked: int) -> int:
    """Question-evaluations that so many merges to ask need at least."""
    return ceil(fewest_deciding(asked) * _share(asked))


def _share(asked: int) -> float:
    """Question-evaluations of an ablation for each question that decides."""
    return 1 + asked * (1 + COMBINATIONS) + 2 * HELD_OUT / (1 - HELD_OUT)


def fewest_deciding(asked: int) -> int:
    """Questions with which the test can find a removal essential that loses them all, though so many are compared."""
    return max(FEWEST, next(n for n in range(64) if asked * 2 * 0.5**n < LEVEL))


def ablate(run: Run, of: CandidateRow, budget: int, allow_seen: bool = False) -> Ablation:
    """Begin or continue the ablation of a program.

    Args:
        run: a run that has ended.
        of: one of its programs, with a merge.
        budget: question-evaluations at most.
        allow_seen: see `study.begin`.

    Raises:
        UsageError, RunError: nothing to remove, too small a budget, or begun with another one.
        StageError: the program does not give its merge any more.
    """
    assert of.source is not None
    listed = removals(of.source)
    check_budget(listed, budget)
    study = Study(run, kind_of(WHAT, of), of, (), 0, "fresh")
    with asking(study) as ask:
        with run.view.phase(run.directory, 0, f"{study.kind} run", len(listed) + 1) as advance:
            original = copy_of(study, ask, ())
            rows = []
            for index, edit in enumerate(listed, start=1):
                rows.append(ask(study.add(index, edit.text, apply(of.source, [edit])), ()))
                advance(1)
        different = {row.id: row for row in rows if _differs(row, original) and row.duplicate_of is None}
        if different:
            asked = len(different)
            study = begin(run, WHAT, of, plan(asked, budget), {"budget": budget}, fewest_deciding(asked), allow_seen)
            with run.view.phase(run.directory, 0, study.kind, len(different) + 1) as advance:
                for row in (original, *different.values()):
                    ask(row, study.decide)
                    advance(1)
        rows = [study.store.candidate(row.id) for row in rows]
        found = findings(study, original, listed, rows)
        with run.view.phase(run.directory, 0, f"{study.kind} combine", None) as advance:
            simplest = _combine(study, ask, original, found, budget, advance)
    return Ablation(study, tuple(found), simplest, study.spent())


def _differs(row: CandidateRow, original: CandidateRow) -> bool:
    """It has a merge, and another one."""
    return row.status is ExecutionStatus.OK and row.duplicate_of != original.id


def findings(
    study: Study, original: CandidateRow, listed: Sequence[Edit], rows: Sequence[CandidateRow]
) -> list[Finding]:
    """What every edit shows; p-values adjusted over all merges that had to be asked, each counted once."""
    tested: dict[str, tuple[int, int, int]] = {}
    for row in rows:
        if _differs(row, original):
            tested[row.duplicate_of or row.id] = study.against(row, original, study.decide)
    adjusted = dict(zip(tested, holm([mcnemar(wins, losses) for wins, losses, _ in tested.values()]), strict=True))
    found = []
    for edit, row in zip(listed, rows, strict=True):
        owner = row.duplicate_of or row.id
        if row.status is not ExecutionStatus.OK:
            found.append(Finding(edit, row.id, Worth.FAILS, error=f"{row.status}: {row.error or ''}"))
        elif owner not in tested:
            found.append(Finding(edit, row.id, Worth.IDENTICAL))
        else:
            wins, losses, questions = tested[owner]
            p_value = adjusted[owner]
            worth = {
                Verdict.WORSE: Worth.ESSENTIAL, Verdict.BETTER: Worth.BETTER, Verdict.NOT_RESOLVED: Worth.NOT_WORSE
            }[verdict(wins, losses, p_value, LEVEL)]  # fmt: skip
            found.append(Finding(edit, row.id, worth, wins, losses, questions, p_value))
    return found


# -- the simplest program ---------------------------------------------------------------------------------------------


def _combine(
    study: Study,
    ask: Ask,
    original: CandidateRow,
    found: Sequence[Finding],
    budget: int,
    advance: Callable[[int], None],
) -> Simplest:
    source = study.of.source
    assert source is not None
    chosen: list[Edit] = []
    last, exact = original, Simplest(original.id, source, (), identical=True)
    index = len(found) + 1
    reserve = 2 * len(study.held_out)

    def attempt(edit: Edit) -> None:
        nonlocal last, exact, index
        made = _with_imports(source, [*chosen, edit])
        text = apply(source, made)
        if size(text) >= size(apply(source, _with_imports(source, chosen))):
            return
        row = ask(study.add(index, f"{study.of.id} without {len(made)} parts", text), ())
        index += 1
        advance(1)
        if row.status is not ExecutionStatus.OK:
            return
        missing = study.verdicts(row, study.decide).count(None)  # 0 where it repeats a merge that was asked
        if missing and study.spent() + missing + reserve > budget:
            return
        row = ask(row, study.decide)
        if not _as_good(study, row, original):
            return
        chosen.append(edit)
        last = row
        if row.duplicate_of == original.id:
            exact = Simplest(row.id, text, tuple(made), identical=True)

    for finding in _order(found):
        if not any(conflicts(finding.edit, edit) for edit in chosen):
            attempt(finding.edit)
    unread = [finding.edit for finding in found if finding.worth is Worth.FAILS]
    while unread:  # one that goes may have been the last reader of another
        tried = [edit for edit in unread if _nothing_reads(source, chosen, edit)]
        for edit in tried:
            attempt(edit)
        unread = [edit for edit in unread if edit not in tried] if tried else []
    if last.id == exact.candidate:
        return exact
    return _held_out(study, ask, original, last, chosen, exact)


def _with_imports(source: str, chosen: Sequence[Edit]) -> list[Edit]:
    """Some edits, and the removal of the imports that nothing reads after them."""
    return [*chosen, *unread_imports(source, chosen)]


def _nothing_reads(source: str, chosen: Sequence[Edit], edit: Edit) -> bool:
    return not any(conflicts(edit, other) for other in chosen) and without_reader(source, chosen, edit)


def _order(found: Sequence[Finding]) -> list[Finding]:
    """Removals worth combining: what changes no bit first, then by how each did alone; statements before constants."""
    fit = [f for f in found if f.worth is not Worth.FAILS and (f.wins >= f.losses or mcnemar(f.wins, f.losses) > LEVEL)]
    kinds = {"statement": 0, "branch": 1, "constant": 2}
    return sorted(fit, key=lambda f: (f.worth is not Worth.IDENTICAL, -f.difference, kinds[f.edit.kind], f.edit.line))


def _as_good(study: Study, row: CandidateRow, original: CandidateRow) -> bool:
    if row.duplicate_of == original.id:
        return True
    if study.refused(row, study.decide) and not study.refused(original, study.decide):
        return False
    wins, losses, questions = study.against(row, original, study.decide)
    return questions > 0 and (wins >= losses or mcnemar(wins, losses) > LEVEL)


def _held_out(
    study: Study, ask: Ask, original: CandidateRow, row: CandidateRow, chosen: Sequence[Edit], exact: Simplest
) -> Simplest:
    """The combination against the original on questions that no decision saw."""
    ask(original, study.held_out)
    ask(row, study.held_out)
    wins, losses, questions = study.against(row, original, study.held_out)
    if verdict(wins, losses, mcnemar(wins, losses), LEVEL) is Verdict.WORSE:
        return Simplest(exact.candidate, exact.source, exact.edits, True, wins, losses, questions, given_up=row.id)
    assert row.source is not None
    assert study.of.source is not None
    made = tuple(_with_imports(study.of.source, chosen))
    return Simplest(row.id, row.source, made, False, wins, losses, questions)
