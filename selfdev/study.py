"""Studies of one program of a run that has ended: what `selfdev ablate` and `selfdev polish` share.

A study makes programs from the given one and compares them with it, question by question. Its programs are rows of the
run's store with a kind of their own and the iteration `AFTER`, so that every command that takes an id takes theirs, and
no table of the run changes; the given program takes part as a copy, the first row. It asks questions that the run asked
nowhere (drawn like dev, beyond the run's; each study its own), because on those that a program was chosen by its score
is too good and everything made from it would look worse; it asks those only when told to. The last part is held out: no
decision sees it.

Everything is in the store, a program's outcome with its first answers as one transaction, and every decision is taken
anew from it: the same call continues a study that was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfdev.compute.base import Worker
from selfdev.errors import RunError, StageError, UsageError
from selfdev.evaluation import Run, add_answers, lazy_worker, program_of, prompts_of, record
from selfdev.generate import stream_seed
from selfdev.prompting import text_hash
from selfdev.race import question_order
from selfdev.report.tables import printable
from selfdev.rundir import write_atomic
from selfdev.score import refusal
from selfdev.stats import discordant
from selfdev.store import AFTER, BASELINE_KINDS, CandidateRow, QuestionRow, Store, program_row
from selfdev.types import ExecutionStatus, Question, Split

HELD_OUT = 0.3  # of a study's questions
FEWEST = 14  # questions that decide
FEWEST_HELD = 6  # held-out questions: the exact McNemar test of five cannot reject at 0.05

CONTROL = " control"  # at the end of the kind of what a study compares with

Origin = Literal["fresh", "others", "own"]
ORIGINS: dict[Origin, str] = {
    "fresh": "drawn for this study; the run asked them nowhere",
    "others": "of the run's other iterations: the task has no more; this program has not met them",
    "own": "SEEN: this program was chosen by them (the task has no more), so no comparison here is fair",
}


@dataclass(frozen=True)
class Study:
    """One program under study, and the questions."""

    run: Run
    kind: str  # of its rows in the store
    of: CandidateRow  # the program, in the run
    questions: tuple[Question, ...]  # in random order
    deciding: int  # the first so many; the others are held out
    origin: Origin

    @property
    def decide(self) -> tuple[Question, ...]:
        """Questions that decisions may rest on."""
        return self.questions[: self.deciding]

    @property
    def held_out(self) -> tuple[Question, ...]:
        """Questions for estimates."""
        return self.questions[self.deciding :]

    @property
    def store(self) -> Store:
        """The run's."""
        return self.run.store

    def rows(self) -> list[CandidateRow]:
        """The programs of the study so far, in order; the first is the copy of the given one."""
        return self.store.candidates(AFTER, self.kind)

    def add(self, index: int, name: str, source: str) -> CandidateRow:
        """The row of one program; one that is there stays. It draws the random numbers of the given program.

        Raises:
            StageError: another program has this place, so the study was begun by other rules.
        """
        row = program_row(self.kind, name, AFTER, index, source, self.of.execution_seed)
        self.store.add_candidates([row])
        try:
            return self.store.candidate(row.id)
        except RunError:
            raise StageError(
                f"{self.kind} was begun by a version that made other programs; it cannot be continued"
            ) from None

    def spent(self) -> int:
        """Question-evaluations so far."""
        ids = [q.id for q in self.questions]
        return sum(v is not None for row in self.rows() for v in self.store.verdicts_on(row.id, ids))

    def verdicts(self, row: CandidateRow, questions: Sequence[Question]) -> list[bool | None]:
        """A program's verdicts; what repeats a merge of the study has that one's."""
        return self.store.verdicts_on(row.duplicate_of or row.id, [q.id for q in questions])

    def refused(self, row: CandidateRow, questions: Sequence[Question]) -> bool:
        """The token limit cut too many of a program's answers to these (`evaluate.max_truncated`)."""
        owner, wanted = row.duplicate_of or row.id, {q.id for q in questions}
        every = [*self.store.answers(owner, Split.DEV), *self.store.answers(owner, Split.STUDY)]
        asked = [answer for answer in every if answer.question_id in wanted]
        return refusal(asked, self.run.config.evaluate.max_truncated) is not None

    def against(self, row: CandidateRow, other: CandidateRow, questions: Sequence[Question]) -> tuple[int, int, int]:
        """(wins, losses, questions) of the first against the second, where both were asked."""
        return discordant(self.verdicts(row, questions), self.verdicts(other, questions))


def subject(store: Store, name: str) -> CandidateRow:
    """The program that a person means: an id, its beginning, or a registered role such as `winner`.

    Raises:
        RunError: there is none, or it has no merged model.
    """
    row = store.candidate(store.winners().get(name, name))
    if row.status is not ExecutionStatus.OK or row.source is None:
        raise RunError(f"{row.id} ended with {row.status or 'no outcome yet'}, so there is no merge to look into")
    return row


def kind_of(what: str, of: CandidateRow) -> str:
    """The kind of a study's rows in the store."""
    return f"{what} {of.id}"


def begin(
    run: Run,
    what: str,
    of: CandidateRow,
    count: int,
    settings: Mapping[str, Any],
    fewest: int = FEWEST,
    allow_seen: bool = False,
) -> Study:
    """Begin or continue a study with about `count` questions.

    Args:
        run: a run that has ended.
        what: "ablation" or "polish": the kind of its rows is this and the program's id.
        of: the program.
        count: questions, held-out ones included; fewer where the task has no more.
        settings: what must not change between two sittings.
        fewest: questions that have to decide, so that a test can reject.
        allow_seen: questions that the program was chosen by will do where there are no others.

    Raises:
        RunError: begun with other settings, or too few questions are there.
        UsageError: only questions that the program was chosen by are there.
    """
    kind = kind_of(what, of)
    key = f"study {kind}"
    recorded = run.store.get_meta(key)
    if recorded is None:
        study, first, wanted = _draw(run, kind, of, count, fewest)
        _check_unseen(study, allow_seen)
        with run.store.transaction():
            if study.origin == "fresh":
                run.store.append_questions(_question_rows(study))
            run.store.set_meta(key, json.dumps(
                {"origin": study.origin, "first": first, "count": wanted, "deciding": study.deciding,
                 "settings": dict(settings)}))  # fmt: skip
        return study
    old = json.loads(recorded)
    if old["settings"] != dict(settings):
        said = ", ".join(f"{name} {value}" for name, value in old["settings"].items())
        raise RunError(f"the {what} of {of.id} was begun with {said}; give the same, or study another program")
    questions = _of(run, kind, of, old["origin"], old["first"], old["count"])
    study = Study(run, kind, of, questions, old["deciding"], old["origin"])
    _check_unseen(study, allow_seen)
    return study


def _check_unseen(study: Study, allow_seen: bool) -> None:
    if study.origin == "own" and not allow_seen:
        raise UsageError(
            f"the task has only dev questions that {study.of.id} was chosen by; a comparison on them is not fair. Give "
            "the task more rows, or --allow-seen-questions for one that says so"
        )


def _draw(run: Run, kind: str, of: CandidateRow, count: int, fewest: int) -> tuple[Study, int, int]:
    """The study, the first of its fresh questions, and how many were asked for."""
    first = run.store.question_count(Split.STUDY)
    origin: Origin = "fresh"
    wanted, questions = count, _of(run, kind, of, origin, first, count)
    while len(questions) < wanted and wanted >= 4 * FEWEST:
        wanted //= 2
        questions = _of(run, kind, of, origin, first, wanted)
    if len(questions) < min(count, 2 * FEWEST):
        origin, first, wanted = "others", 0, count
        questions = _of(run, kind, of, origin, first, count)
        if len(questions) < 2 * FEWEST:
            origin = "own"
            questions = _of(run, kind, of, origin, first, count)
    deciding = len(questions) - round(HELD_OUT * len(questions))
    if deciding < fewest or len(questions) - deciding < FEWEST_HELD:
        least = max(round(fewest / (1 - HELD_OUT)), round(FEWEST_HELD / HELD_OUT))
        raise RunError(f"{len(questions)} dev questions are too few to compare programs on; {least} are needed")
    return Study(run, kind, of, questions, deciding, origin), first, wanted


def _of(run: Run, kind: str, of: CandidateRow, origin: str, first: int, count: int) -> tuple[Question, ...]:
    """The questions of a study in the random order that its kind seeds."""
    task, config = run.parts.task, run.config
    if origin == "fresh":
        pool = list(run.parts.fresh(first, count))
    else:
        met = _met(run, of)
        unmet = [number for number in range(task.blocks) if number not in met]
        blocks = unmet if origin == "others" else sorted(met)
        pool = [q for number in blocks for q in task.block(number)][:count]
    return tuple(pool[i] for i in question_order(len(pool), stream_seed(config.seed, f"study {kind}", 0, 0)))


def _met(run: Run, of: CandidateRow) -> set[int]:
    """Blocks by which a program was chosen; what a study made has those of the program that it was made from."""
    while of.iteration == AFTER:
        kind = of.kind.removesuffix(CONTROL)
        recorded = run.store.get_meta(f"study {kind}")
        if recorded is not None and json.loads(recorded)["origin"] != "fresh":  # that study asked the run's questions
            return set(range(run.parts.task.blocks))
        of = run.store.candidate(kind.split()[-1])
    return {0, run.config.block_of(of.iteration)}


def _question_rows(study: Study) -> list[QuestionRow]:
    return [
        QuestionRow(q.id, Split.STUDY, text_hash(q.prompt), q.skill, 0, turn, turn >= study.deciding)
        for turn, q in enumerate(study.questions)
    ]


# -- asking -----------------------------------------------------------------------------------------------------------

Ask = Callable[[CandidateRow, Sequence[Question]], CandidateRow]


@contextmanager
def asking(study: Study) -> Iterator[Ask]:
    """A function that has a program answer those of some questions that it has not answered; gives its row anew.

    One that ran before and fails now (say, a timeout on a busy machine) raises `StageError`, and nothing is recorded.

    With no questions the program only runs: whether it has a merge, and another one, is known then. Two merges are the
    same by all their bits alone: probes are small, and a condition on sizes, which an edit may be about, holds on none
    of them.
    """
    with lazy_worker(study.run) as worker:
        known: dict[str, str] = {}
        for row in study.rows():
            if row.status is ExecutionStatus.OK and row.result_hash is not None:
                known.setdefault(row.result_hash, row.duplicate_of or row.id)
        yield lambda row, questions: _ask(study, worker, known, row, questions)


def _ask(
    study: Study, worker: Callable[[], Worker], known: dict[str, str], row: CandidateRow, questions: Sequence[Question]
) -> CandidateRow:
    store, run = study.store, study.run
    row = store.candidate(row.id)
    if row.status is None:
        outcome = worker().run(program_of(row), prompts_of(questions), known)
        record(run, row.id, replace(outcome, fingerprint=None), known, questions)
        row = store.candidate(row.id)
    if row.status is ExecutionStatus.OK:
        owner = store.candidate(row.duplicate_of or row.id)
        verdicts = store.verdicts_on(owner.id, [q.id for q in questions])
        missing = [q for q, verdict in zip(questions, verdicts, strict=True) if verdict is None]
        if missing:
            outcome = worker().again(program_of(owner), prompts_of(missing), str(owner.result_hash))
            if outcome.completions is None:
                raise StageError(
                    f"program {owner.id} ran before and now ended with {outcome.status} ({outcome.error}); nothing of "
                    "it is recorded, run the command again"
                )
            add_answers(run, owner, missing, outcome.completions)
    return store.candidate(row.id)


def copy_of(study: Study, ask: Ask, questions: Sequence[Question]) -> CandidateRow:
    """The given program as the study's first row, with its answers.

    Raises:
        StageError: it does not give the merge that it gave in the run.
    """
    assert study.of.source is not None
    row = ask(study.add(0, f"{study.of.id} as it is", study.of.source), questions)
    if row.status is not ExecutionStatus.OK:
        raise StageError(f"{study.of.id} does not run any more: {row.status}, {row.error}")
    if study.of.result_hash is not None and row.result_hash != study.of.result_hash:
        raise StageError(f"{study.of.id} gives other bits than in the run, so nothing can be compared with it")
    return row


# -- for people -------------------------------------------------------------------------------------------------------


def seconds_per_question(store: Store) -> float | None:
    """What one question-evaluation took in the run, of its baselines before it has programs; None where not known."""
    seconds = store.seconds()
    spent = sum(
        each
        for iteration, phases in seconds.items()
        for name, each in phases.items()
        if name in (("evaluate", "race") if iteration else ("finals",))
    )
    count = store.evaluations("generated")
    if not (count and spent):
        spent = seconds.get(0, {}).get("baselines", 0.0)
        count = sum(map(store.evaluations, BASELINE_KINDS))
    return spent / count if count and spent else None


def cost_line(store: Store, evaluations: int) -> str:
    """Question-evaluations, and how long they may take."""
    each = seconds_per_question(store)
    minutes = "" if each is None else f", about {evaluations * each / 60:.1f} minutes at the speed of the run"
    return f"at most {evaluations} question-evaluations{minutes}"


def unfair(study: Study) -> str:
    """What a verdict on seen questions has to say; empty on others."""
    if study.origin != "own":
        return ""
    return f" - on SEEN questions, by which {study.of.id} was chosen: its score is too good there and no p-value holds"


def asked_line(study: Study) -> str:
    """The questions of a study."""
    return f"{len(study.decide)} that decide and {len(study.held_out)} held out, {ORIGINS[study.origin]}"


def write_program(
    path: Path, study: Study, made: str, row: CandidateRow, evidence: str, further: Mapping[str, str]
) -> None:
    """A program that a study made, as a runnable algorithm file with comments on top that say where it comes from.

    Args:
        path: of the file.
        study: what made it.
        made: how, in a word or two before the id of the given program, such as "polished from".
        row: the program.
        evidence: what may be said of it.
        further: more lines: key and value.
    """
    header = {
        "selfdev algorithm": row.id,
        made: study.of.id,
        "evidence": evidence,
        "questions": ORIGINS[study.origin],
        "execution seed": f"{study.of.execution_seed} (of the program's own random draws)",
        **further,
    }
    lines = [f"# {key}: {' '.join(value.split())}" for key, value in header.items()]
    source = printable(row.source or "").strip("\n")
    write_atomic(path, "\n".join(map(printable, lines)) + "\n\n" + source + "\n")
