"""Store -> what a person sees in a terminal. Read-only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from selfdev.estimates import final_rows
from selfdev.gap_records import recorded_points
from selfdev.pair import by_gain, in_finals, overall
from selfdev.report.arms import arms_table
from selfdev.report.gap import gap_tables, gap_text
from selfdev.report.test import noise_floor, test_report
from selfdev.score import Score
from selfdev.stats import paired_gain
from selfdev.store import STOPPED, CandidateRow, Store
from selfdev.types import ExecutionStatus, ScoredCandidate, Split

BAR_WIDTH = 30
CAPTION = "cut: answers ended by the token limit; unread: answers that could not be parsed"
BINS = 10


def iteration_summary(store: Store, iteration: int) -> RenderableType:
    """What one iteration drew, what became of it, and what the generator learned from it."""
    candidates = store.scored(iteration)
    record = next((r for r in store.iterations() if r["iteration"] == iteration), None)
    parts: list[RenderableType | None] = [_funnel(candidates), _failures(candidates), _kinds(store, iteration)]
    parts.append(_histogram(candidates))
    parts.append(_race(store, iteration, candidates))
    parts.append(_best_so_far(store, iteration))
    if record is not None:
        parts.append(_training(store, iteration, record["train"]))
        parts.append(_evidence(record["evidence"]))
        parts.append(_external(record["evidence"]))
        parts.append(gap_text(record["gap"]))
    parts.append(_seconds(store, iteration))
    heat = "" if record is None else f", temperature {record['temperature']:.3g}"
    return Panel(Group(*[p for p in parts if p is not None]), title=f"iteration {iteration}{heat}", title_align="left")


def funnel(candidates: Sequence[ScoredCandidate]) -> dict[str, int]:
    """How many samples reached each stage."""
    return {
        "samples": len(candidates),
        "parsed": sum(c.status.parsed for c in candidates),
        "ran": sum(c.status.ran for c in candidates),
        "valid": sum(c.status is ExecutionStatus.OK for c in candidates),
        "duplicates": sum(c.duplicate_of is not None for c in candidates),
        "scored": sum(c.opening_score is not None and c.duplicate_of is None for c in candidates),
    }


def _funnel(candidates: Sequence[ScoredCandidate]) -> Text:
    return Text(" · ".join(f"{name} {count}" for name, count in funnel(candidates).items()))


def _failures(candidates: Sequence[ScoredCandidate]) -> Text | None:
    kinds = Counter(str(c.status) for c in candidates if c.status is not ExecutionStatus.OK)
    if not kinds:
        return None
    return Text("failures: " + " · ".join(f"{kind} {count}" for kind, count in kinds.most_common()), style="dim")


def _kinds(store: Store, iteration: int) -> Text | None:
    """Tags of the scored programs, and how many of these are not ranked."""
    rows = [r for r in store.candidates(iteration, "generated") if r.result_hash and r.duplicate_of is None]
    tags = Counter(tag for row in rows for tag in row.tags)
    said = " · ".join(f"{tag} {count}" for tag, count in sorted(tags.items()))
    refused = sum(row.refused is not None for row in rows)
    if refused:
        said += f"\nnot ranked, too many answers cut by the token limit: {refused}"
    return Text("kinds: " + said, style="dim") if said else None


def _histogram(candidates: Sequence[ScoredCandidate]) -> Text:
    scores = [c.opening_score for c in candidates if c.opening_score is not None and c.duplicate_of is None]
    if not scores:
        return Text("no candidate has a score")
    counts = Counter(min(BINS - 1, int(s * BINS)) for s in scores)
    low, high, most = min(counts), max(counts), max(counts.values())
    text = Text(f"dev scores: mean {sum(scores) / len(scores):.3f}, best {max(scores):.3f}\n")
    for b in range(low, high + 1):
        bar = "█" * round(BAR_WIDTH * counts[b] / most) or ("▏" if counts[b] else "")
        text.append(f"  {b / BINS:.1f}-{(b + 1) / BINS:.1f} {bar} {counts[b] or ''}\n")
    text.rstrip()
    return text


def _race(store: Store, iteration: int, candidates: Sequence[ScoredCandidate]) -> Text | None:
    """Who left the race and why, and what it cost beside asking everyone everything."""
    raced = [c.standing for c in candidates if c.standing is not None and c.duplicate_of is None]
    if not raced:
        return None
    reasons = Counter(s.dropped for s in raced if s.dropped is not None)
    left = " · ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    block = 0 if store.question_count(Split.DEV, iteration) == 0 else iteration
    spent = store.evaluations("generated", iteration, block)
    whole = len(raced) * store.question_count(Split.DEV, block)
    finalists = sum(s.finalist for s in raced)
    return Text(
        f"race: {len(raced)} entered · {left or 'none dropped'} · finalists {finalists} · {spent} question-evaluations "
        f"instead of {whole} ({whole / max(1, spent):.1f}x fewer)"
    )


def _best_so_far(store: Store, iteration: int) -> Text:
    best = by_gain([c for c in store.scored() if c.iteration <= iteration])
    if not best:
        return Text("best so far: none")
    c = best[0]
    where = "" if c.standing is None else " held-out"
    return Text(
        f"best so far: {c.id} {c.correct}/{c.total}{where} = {c.score:.3f} (the seed there {c.seed_correct}/{c.total}, "
        f"{c.gain:+.3f})"
    )


def _evidence(evidence: dict[str, Any]) -> Text | None:
    """How many of the pairs are probably the wrong way round, by either rule."""
    said = [
        f"{rule} {evidence[rule]['inverted']:.1%} of {evidence[rule]['pairs']}"
        for rule in ("paper", "confident")
        if evidence.get(rule) and evidence[rule]["inverted"] is not None
    ]
    if not said:
        return None
    return Text(f"pairs in the wrong order, estimated: {' · '.join(said)} (rule {evidence['rule']})", style="dim")


def _external(evidence: dict[str, Any]) -> Text | None:
    """How many pairs have a human-designed merge as the chosen side."""
    found = evidence.get("external")
    if found is None:
        return None
    missing = found["due"] - found["pairs"]
    short = f" of {found['due']} due; for {missing} there was no program to reject" if missing else ""
    return Text(f"external pairs: {found['pairs']}{short}", style="dim")


def _training(store: Store, iteration: int, train: dict[str, float]) -> Text:
    pairs = store.pair_count(iteration)
    if not train.get("steps"):
        return Text(f"DPO: {pairs} pairs, no training")
    return Text(
        f"DPO: {pairs} pairs, {train['steps']} steps, loss {train['loss']:.4f}, reward margin "
        f"{train['reward_margin']:+.4f}, reward accuracy {train['reward_accuracy']:.2f}"
    )


def _seconds(store: Store, iteration: int) -> Text:
    spent = store.seconds().get(iteration, {})
    return Text("time: " + " · ".join(f"{name} {s:.1f} s" for name, s in spent.items()), style="dim")


def dev_table(store: Store, top: int = 5) -> Table:
    """Seed, human-designed merges and the best discovered algorithms, all on the questions of the finals."""
    counts, seed = store.final_counts(), _seed_row(store)
    table = _score_table(f"dev scores on {len(store.final_places())} questions that these share", gains=True)
    rows, shown = _final_verdicts(store), dict[str, Score]()

    def add(title: str, candidate: str) -> None:
        if candidate in counts:
            shown[store.candidate(candidate).duplicate_of or candidate] = counts[candidate]
        _add_counts(table, title, counts.get(candidate), _gain_cells(rows.get(candidate), seed))

    for row in store.baselines():
        if row.kind != "task_arithmetic":
            add(_title(row), row.id)
    table.add_section()
    for place, row in _grid_range(store, counts):
        add(f"{row.name} ({place})", row.id)
    every = store.scored()
    for iteration in sorted({c.iteration for c in every}):
        table.add_section()
        for rank, c in enumerate(in_finals([c for c in every if c.iteration == iteration])[:top], start=1):
            add(f"iteration {iteration} #{rank} {c.id}", c.id)
    cut, unread = sum(c.truncated for c in shown.values()), sum(c.unparsable for c in shown.values())
    table.caption = f"{table.caption}. In these rows {cut} answers were ended by the token limit, {unread} not parsed"
    return table


def _final_verdicts(store: Store) -> dict[str, list[bool]]:
    rows: dict[str, list[bool]] = {}
    for kind in dict.fromkeys(row.kind for row in store.candidates()):
        rows |= final_rows(store, kind)[1]
    return rows


def _seed_row(store: Store) -> list[bool]:
    return final_rows(store)[0]


def _gain_cells(row: Sequence[bool] | None, seed: Sequence[bool]) -> tuple[str, str]:
    """Gain over the seed and its paired interval."""
    if row is None or len(row) != len(seed) or not seed:
        return "", ""
    gain, low, high = paired_gain(row, seed)
    return f"{gain:+.3f}", f"{low:+.3f} to {high:+.3f}"


def _title(row: CandidateRow) -> str:
    return f"{row.name} alone" if row.kind == "source" else row.name


def _grid_range(store: Store, counts: dict[str, Score]) -> list[tuple[str, CandidateRow]]:
    """The grid's best, median and worst point: enough to see its range."""
    grid = _grid(store, counts)
    if len(grid) < 3:
        return [(f"point of {len(grid)}", row) for row in grid]
    places = {f"best of {len(grid)}": 0, "median": len(grid) // 2, "worst": len(grid) - 1}
    return [(place, grid[index]) for place, index in places.items()]


def _grid(store: Store, counts: dict[str, Score]) -> list[CandidateRow]:
    grid = [row for row in store.baselines() if row.kind == "task_arithmetic" and row.id in counts]
    return sorted(grid, key=lambda row: (-counts[row.id].correct, row.index))


def grid_table(store: Store) -> Table:
    """Every point of the Task Arithmetic grid on dev, best first."""
    counts = store.final_counts()
    table = _score_table("Task Arithmetic grid on dev")
    for row in _grid(store, counts):
        _add_counts(table, row.name, counts[row.id])
    return table


def question_table(store: Store) -> Table:
    """The ledger of questions: which block of dev was asked by whom in which iteration, and every opening of test."""
    table = Table(title="questions used", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("questions", "by", "iteration", "used", "answers"):
        table.add_column(column, justify="left" if column in ("questions", "by") else "right", no_wrap=True)
    for block, who, iteration, used, evaluations in store.question_uses():
        size, held = store.question_count(Split.DEV, block), store.question_count(Split.DEV, block, True)
        raced = bool(held) and (block > 0 or store.question_count(Split.DEV, 1) == 0)
        name = f"dev block {block}" + (f", {held} held out" if raced else "")
        who = "selfdev" if who == "generated" else who
        table.add_row(name, who, str(iteration) if iteration > 0 else "-", f"{used}/{size}", str(evaluations))
    for kind, used, evaluations in store.study_uses():
        size = store.question_count(Split.STUDY)
        table.add_row("drawn after the run", kind, "-", f"{used}/{size}", str(evaluations))
    for opening in store.ledger():
        count = f"{opening.questions}/{store.question_count(Split.TEST)}"
        spent = str(opening.questions * len(opening.candidates))
        table.add_row(f"test, opening {opening.number}", f"{len(opening.candidates)} registered", "-", count, spent)
    return table


def top_table(store: Store, count: int) -> Table:
    """The best discovered algorithms of all iterations: those of the finals first, then by gain over the seed."""
    every = store.scored()
    table = Table(title=f"best {count} discovered algorithms", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "algorithm", "iteration", "finals", "iteration's dev", "gain over the seed", "kind of merge"):
        table.add_column(column, justify="left" if column in ("algorithm", "kind of merge") else "right")
    for rank, c in enumerate(overall(every)[:count], start=1):
        final = "" if c.final_correct is None else f"{c.final_correct}/{c.final_total} = {c.final_score:.3f}"
        tags = ", ".join(store.candidate(c.id).tags)
        dev = f"{c.correct}/{c.total} = {c.score:.3f}"
        table.add_row(str(rank), c.id, str(c.iteration), final, dev, f"{c.gain:+.3f}", tags)
    return table


def final_tables(store: Store) -> RenderableType:
    """What stands at the end of a run."""
    isolation = Text(f"sandbox isolation: {store.get_meta('isolation') or 'no program has run'}", style="dim")
    noise = Text(noise_floor(store), style="dim")
    return Group(dev_table(store), noise, Text(), *_gaps(store), *_beside(store), test_report(store), isolation)


def _gaps(store: Store) -> list[RenderableType]:
    """The gap per iteration and verifier, and why the run ended early, where it did."""
    rows = {row["iteration"]: row["gap"] for row in store.iterations()}
    gaps, gains = recorded_points(rows)
    levels = [gap["confidence"] for gap in rows.values() if "verifiers" in gap]
    parts: list[RenderableType] = [*gap_tables(gaps, gains, levels[0])] if levels else []
    if levels and not any(gaps.values()):
        parts.append(Text("the gap was measured by an earlier version; `selfdev gap RUN` measures it again"))
    stopped = store.get_meta(STOPPED)
    if stopped is not None:
        parts.append(Text(f"the run ended early, after iteration {stopped}"))
    return [*parts, Text()] if parts else []


def _beside(store: Store) -> list[RenderableType]:
    """The controls, where there are any."""
    if len({row.kind for row in store.candidates() if row.iteration > 0}) < 2:
        return []
    return [arms_table(store), Text()]


def candidate_panel(store: Store, candidate_id: str) -> RenderableType:
    """One program: source, scores, where it comes from and what it taught."""
    row = store.candidate(candidate_id)
    facts = Table.grid(padding=(0, 2))
    for key, value in _facts(store, row).items():
        facts.add_row(Text(key, style="bold"), Text(value))
    source = row.source if row.source is not None else row.text
    code = Syntax(printable(source), "python", line_numbers=True, word_wrap=True)
    return Group(facts, Text(), code)


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control characters but newline and tab are shown as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _facts(store: Store, row: CandidateRow) -> dict[str, str]:
    facts = {
        "id": row.id,
        "kind": row.kind + (f": {row.name}" if row.name else ""),
        "status": str(row.status or "not run"),
    }
    if row.error:
        facts["error"] = row.error
    if row.refused:
        facts["not ranked"] = row.refused
    original = store.candidate(row.duplicate_of) if row.duplicate_of else row
    if original.tags:
        facts["kind of merge"] = ", ".join(original.tags)
    for split in Split:
        counted = store.counts(split).get(row.id)
        if counted is not None:
            facts[str(split)] = _describe(counted)
    if row.kind == "generated":
        facts["drawn"] = (
            f"iteration {row.iteration}, sample {row.index}, checkpoint {row.checkpoint}, temperature "
            f"{row.temperature:g}, seed {row.sample_seed}"
        )
        facts["run with"] = f"seed {row.execution_seed} (of the program's own random draws)"
        facts["likelihood"] = f"{row.nll:.2f} nats over {row.tokens} tokens"
    facts["cost"] = f"{row.operations} tensor operations, peak {row.peak_bytes / 1e6:.1f} MB"
    if row.duplicate_of:
        facts["same merge as"] = row.duplicate_of
    sides = Counter((iteration, side) for iteration, side, _ in store.lineage(row.id))
    if sides:
        facts["taught"] = ", ".join(f"iteration {i}: {side} in {n} pair(s)" for (i, side), n in sides.items())
    return facts


def _describe(counted: Score) -> str:
    low, high = counted.interval
    return (
        f"{counted.correct}/{counted.total} = {counted.correct / counted.total:.3f} [{low:.3f}, {high:.3f}], "
        f"{counted.truncated} truncated, {counted.unparsable} unparsable, {counted.empty} empty, "
        f"{counted.repetitive} repetitive" + (f", {counted.timed_out} timed out" if counted.timed_out else "")
    )


def _score_table(title: str, gains: bool = False) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("algorithm", overflow="fold", min_width=28)
    for column in ("correct", "score", *(("gain", "95 % (paired)") if gains else ("95 %", "cut/unread"))):
        table.add_column(column, justify="right", no_wrap=True)
    table.caption = "gain: over the seed on the same questions" if gains else CAPTION
    table.caption_justify = "left"
    return table


def _add_counts(table: Table, title: str, counted: Score | None, gains: tuple[str, ...] = ()) -> None:
    """A line of `_score_table`; `gains` take the place of the score's own interval."""
    if counted is None:
        table.add_row(title, *["-"] * 4)
        return
    low, high = counted.interval
    own = (f"{low:.3f}-{high:.3f}", f"{counted.truncated}/{counted.unparsable}")
    table.add_row(
        title, f"{counted.correct}/{counted.total}", f"{counted.correct / counted.total:.3f}", *(gains or own)
    )  # fmt: skip
