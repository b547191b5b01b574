"""What the sealed test set said: intervals, paired tests, corrections, and how often it was opened. Read-only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfdev.estimates import final_gains
from selfdev.power import Verdict, resolvable_difference, verdict
from selfdev.shrink import FEWEST, Gain, shrunken_gains
from selfdev.stats import discordant, holm, mcnemar, paired_interval
from selfdev.store import NOISE, TRANSFER, CandidateRow, Store
from selfdev.types import Split


@dataclass(frozen=True, slots=True)
class Comparison:
    """One candidate against another on the same test questions."""

    candidate: str
    against: str  # "seed" or "baseline"
    wins: int
    losses: int
    questions: int
    low: float  # 95 % interval of the difference
    high: float
    p_value: float  # exact McNemar, adjusted for all comparisons of the report (Holm)
    verdict: Verdict

    @property
    def difference(self) -> float:
        """Accuracy of the candidate minus that of the other."""
        return (self.wins - self.losses) / self.questions


def comparisons(store: Store) -> list[Comparison]:
    """Every tested candidate against the seed and the best baseline; p-values adjusted over all of them (Holm)."""
    roles = store.winners()
    rows = {i: [a.correct for a in store.answers(i, Split.TEST)] for i in roles.values()}
    size = store.question_count(Split.TEST)
    asked = [
        (candidate, against, *discordant(rows[candidate], rows[roles[against]]))
        for role, candidate in roles.items()
        for against in ("seed", "baseline")
        if role not in ("seed", "baseline") and against in roles and candidate != roles[against]
        if len(rows[candidate]) == len(rows[roles[against]]) == size
    ]
    adjusted = holm([mcnemar(wins, losses) for _, _, wins, losses, _ in asked])
    return [
        Comparison(i, against, wins, losses, n, *paired_interval(wins, losses, n), p, verdict(wins, losses, p))
        for (i, against, wins, losses, n), p in zip(asked, adjusted, strict=True)
    ]


def test_report(store: Store) -> RenderableType:
    """Scores, comparisons and the ledger; a line that says what is missing where the set is still sealed."""
    counts = store.counts(Split.TEST)
    roles = store.winners()
    if not roles:
        return Text("test: sealed; no candidate is registered yet")
    tested = {role: i for role, i in roles.items() if i in counts}
    if not tested:
        return Text(f"test: sealed ({store.question_count(Split.TEST)} questions), {len(roles)} candidates registered")
    found = comparisons(store)
    parts: list[RenderableType] = [_scores(store, tested), *map(_sentence, found)]
    return Group(
        *parts, _named(store, found), _resolution(store, found), Text(noise_floor(store), style="dim"), _ledger(store)
    )


def title(store: Store, role: str, row: CandidateRow) -> str:
    """How a registered candidate is called in a table."""
    if role.startswith("transfer "):
        return row.name
    names = {"winner": f"best on dev, {row.id}", "baseline": f"best baseline on dev: {row.name}", "seed": row.name}
    return names.get(role, f"{row.kind} {row.id}" if role.startswith("named") else f"{role}: {row.id}")


def _scores(store: Store, tested: dict[str, str]) -> Table:
    counts, after = store.counts(Split.TEST), store.registered_after()
    gains = {i: gain for kind in _kinds(store, tested) for i, gain in final_gains(store, kind).items()}
    shrunken = _shrunken_on_test(store, tested)
    table = Table(title=_heading(store), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("algorithm", overflow="fold", min_width=26)
    columns = ["correct", "score", "95 %", "dev gain", "shrunk"]
    for column in [*columns, *(["test gain, shrunk"] if shrunken else [])]:
        table.add_column(column, justify="right", no_wrap=True)
    for role, i in tested.items():
        counted, row = counts[i], store.candidate(i)
        low, high = counted.interval
        mark = f" (registered after opening {after[role]})" if after[role] else ""
        gain = gains.get(i)
        cells = ["", ""] if gain is None else [f"{gain.naive:+.3f}", f"{gain.shrunken:+.3f}"]
        if shrunken:
            cells.append(f"{shrunken[i].shrunken:+.3f}" if i in shrunken else "")
        table.add_row(
            title(store, role, row) + mark, f"{counted.correct}/{counted.total}",
            f"{counted.correct / counted.total:.3f}", f"{low:.3f}-{high:.3f}", *cells,
        )  # fmt: skip
    cut, unread = (sum(getattr(counts[i], name) for i in tested.values()) for name in ("truncated", "unparsable"))
    table.caption = (
        "dev gain: over the seed where it was chosen, too good for the best of many; shrunk: what is to be expected "
        f"behind it. In all {cut} answers were ended by the token limit, {unread} could not be parsed"
    )
    table.caption_justify = "left"
    return table


def _kinds(store: Store, tested: dict[str, str]) -> list[str]:
    kinds = dict.fromkeys(store.candidate(i).kind for i in tested.values())
    return [kind for kind in kinds if any(row.iteration > 0 for row in store.candidates(kind=kind))]


def _shrunken_on_test(store: Store, tested: dict[str, str]) -> dict[str, Gain]:
    """Gains on test where so many were tested that the best of them is partly luck."""
    names = [i for role, i in tested.items() if role not in ("seed", "baseline")]
    rows = {i: [a.correct for a in store.answers(i, Split.TEST)] for i in dict.fromkeys(names)}
    if len(rows) < FEWEST or "seed" not in tested:
        return {}
    seed = [a.correct for a in store.answers(tested["seed"], Split.TEST)]
    return dict(zip(rows, shrunken_gains(seed, list(rows.values())), strict=True))


def _heading(store: Store) -> str:
    count = store.openings()
    return "test scores; the set was opened " + ("once" if count == 1 else f"{count} times")


def _sentence(c: Comparison) -> Text:
    names = {"seed": "the seed", "baseline": "the best baseline on dev"}
    return Text(
        f"{c.candidate} - {names[c.against]}: {c.difference:+.3f}, 95 % {c.low:+.3f} to {c.high:+.3f} "
        f"(paired, {c.wins} won, {c.losses} lost), p {c.p_value:.2g}: {c.verdict}"
    )


def _named(store: Store, compared: Sequence[Comparison]) -> Text:
    """Whether there is a winner: only where the evidence says so."""
    best = store.winners().get("winner")
    if best is None:
        return _counted(compared)
    found = {c.against: c.verdict for c in compared if c.candidate == best}
    if found.get("seed") is not Verdict.BETTER:
        return Text(f"no winner: {best} is not resolvably better than the seed", style="bold")
    if "baseline" not in found:
        return Text(f"{best} is better than the seed", style="bold")
    beside = {Verdict.BETTER: "and", Verdict.WORSE: "and worse than", Verdict.NOT_RESOLVED: "but not resolvably than"}
    word = beside[found["baseline"]]
    return Text(f"{best} is better than the seed {word} the best human-designed merge", style="bold")


def _counted(compared: Sequence[Comparison]) -> Text:
    """Of a list without a winner: how many are resolvably better than what."""
    said = []
    for against, name in (("seed", "the seed"), ("baseline", "the best human-designed merge")):
        verdicts = [c.verdict for c in compared if c.against == against]
        better, worse = verdicts.count(Verdict.BETTER), verdicts.count(Verdict.WORSE)
        said.append(f"{better} of {len(verdicts)} are better than {name}, {worse} worse")
    return Text("; ".join(said), style="bold")


def _resolution(store: Store, compared: Sequence[Comparison]) -> Text:
    """What so many test questions can tell apart, at the discordance that was seen."""
    lines = []
    for c in compared[:2]:
        share = (c.wins + c.losses) / c.questions
        least = resolvable_difference(c.questions, share) if share else None
        found = "nothing" if least is None else f"{least:.3f} or more"
        lines.append(f"against the {c.against} ({share:.2f} discordant): {found}")
    return Text(
        f"differences that {store.question_count(Split.TEST)} questions find 4 times in 5: " + "; ".join(lines),
        style="dim",
    )


def noise_floor(store: Store) -> str:
    """How far the seed differs from itself: what stands beside every gain."""
    differ = store.get_meta(NOISE)
    if differ is None:
        return "the seed was not asked twice"
    return f"noise floor: asked again in other batches, the seed's verdict differed on {differ} questions"


def _ledger(store: Store) -> Text:
    lines = [
        f"opening {o.number}: {o.opened_at}, {len(o.candidates)} candidates, {o.questions} questions"
        for o in store.ledger()
    ]
    late = "" if store.openings() < 2 else "; later numbers come from a set that had been looked at"
    said = "\n".join(lines) + late + "; p-values adjusted for all comparisons here (Holm)"
    return Text("\n".join(filter(None, (said, provenance(store)))), style="dim")


def provenance(store: Store) -> str:
    """Which questions a transfer asks, for its table and its test report; empty for a run."""
    recorded = store.get_meta(TRANSFER)
    if recorded is None:
        return ""
    facts = json.loads(recorded)
    dev = (
        "asked nowhere in the run that the programs come from"
        if facts["fresh"]
        else "those of the run that the programs were chosen on (the task has no more), though for other models"
    )
    times = facts["openings"]
    return (
        f"Dev questions: {dev}. Test questions: the same set as that run's, which had been opened {times} "
        f"time{'' if times == 1 else 's'} when this began"
    )
