"""Store -> what a person sees in a terminal. Read-only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from selfdev.pair import ranked
from selfdev.score import Score
from selfdev.stats import paired_difference
from selfdev.store import CandidateRow, Store
from selfdev.types import ExecutionStatus, ScoredCandidate, Split

BAR_WIDTH = 30
BINS = 10


def iteration_summary(store: Store, iteration: int) -> RenderableType:
    """What one iteration drew, what became of it, and what the generator learned from it."""
    candidates = store.scored(iteration)
    record = next((r for r in store.iterations() if r["iteration"] == iteration), None)
    parts: list[RenderableType | None] = [_funnel(candidates), _failures(candidates), _kinds(store, iteration)]
    parts.append(_histogram(candidates))
    parts.append(_best_so_far(store, iteration))
    if record is not None:
        parts.append(_training(store, iteration, record["train"]))
        parts.append(_gap(record["gap"]))
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
        "scored": sum(c.score is not None and c.duplicate_of is None for c in candidates),
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
    scores = [c.score for c in candidates if c.score is not None and c.duplicate_of is None]
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


def _best_so_far(store: Store, iteration: int) -> Text:
    best = ranked([c for c in store.scored() if c.iteration <= iteration])
    seed = _seed_counts(store)
    if not best or seed is None:
        return Text("best so far: none")
    c = best[0]
    gain = (c.score or 0.0) - seed.correct / seed.total
    return Text(
        f"best so far: {c.id} {c.correct}/{c.total} = {c.score:.3f} (seed {seed.correct}/{seed.total}, {gain:+.3f})"
    )


def _training(store: Store, iteration: int, train: dict[str, float]) -> Text:
    pairs = store.pair_count(iteration)
    if not train.get("steps"):
        return Text(f"DPO: {pairs} pairs, no training")
    return Text(
        f"DPO: {pairs} pairs, {train['steps']} steps, loss {train['loss']:.4f}, reward margin "
        f"{train['reward_margin']:+.4f}, reward accuracy {train['reward_accuracy']:.2f}"
    )


def _gap(gap: dict[str, float]) -> Text:
    if not gap:
        return Text("solver-verifier gap: fewer than two scored programs")
    return Text(
        f"solver-verifier gap: dev score {gap['verifier_score']:.3f} (best of {gap['n']} of {gap['samples']} by own "
        f"likelihood) - "
        f"{gap['solver_score']:.3f} (mean) = {gap['score_gap']:+.3f}; NLL {gap['solver_nll']:.1f} - "
        f"{gap['verifier_nll']:.1f} = {gap['nll_gap']:+.1f} nats; per token {gap['solver_nll_per_token']:.3f}, "
        f"{gap['verifier_nll_per_token']:.3f}"
    )


def _seconds(store: Store, iteration: int) -> Text:
    spent = store.seconds().get(iteration, {})
    return Text("time: " + " · ".join(f"{name} {s:.1f} s" for name, s in spent.items()), style="dim")


def dev_table(store: Store, top: int = 5) -> Table:
    """Seed, sources, human-designed merges and the best discovered algorithms of each iteration, all on dev."""
    counts = store.counts(Split.DEV)
    table = _score_table("dev scores")
    for row in store.candidates(0):
        if row.kind != "task_arithmetic":
            _add_counts(table, _title(row), counts.get(row.id))
    table.add_section()
    for place, row in _grid_range(store, counts):
        _add_counts(table, f"{row.name} ({place})", counts.get(row.id))
    for iteration in sorted({c.iteration for c in store.scored()}):
        table.add_section()
        for rank, c in enumerate(ranked(store.scored(iteration))[:top], start=1):
            _add_counts(table, f"iteration {iteration} #{rank} {c.id}", counts.get(c.id))
    return table


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
    grid = [row for row in store.candidates(0) if row.kind == "task_arithmetic" and row.id in counts]
    return sorted(grid, key=lambda row: (-counts[row.id].correct, row.index))


def grid_table(store: Store) -> Table:
    """Every point of the Task Arithmetic grid on dev, best first."""
    counts = store.counts(Split.DEV)
    table = _score_table("Task Arithmetic grid on dev")
    for row in _grid(store, counts):
        _add_counts(table, row.name, counts[row.id])
    return table


def top_table(store: Store, count: int) -> Table:
    """The best discovered algorithms of all iterations on dev."""
    counts = store.counts(Split.DEV)
    table = _score_table(f"best {count} discovered algorithms on dev")
    for rank, c in enumerate(ranked(store.scored())[:count], start=1):
        _add_counts(table, f"{rank:2d} {c.id} iteration {c.iteration}", counts.get(c.id))
    return table


def test_table(store: Store) -> RenderableType:
    """What was registered before the test answers were opened, with 95 % intervals."""
    counts = store.counts(Split.TEST)
    winners = store.winners()
    if not winners or not all(i in counts for i in winners.values()):
        return Text("test: not opened (no discovered algorithm has a dev score yet)")
    openings = "once" if store.openings() == 1 else f"{store.openings()} times"
    table = _score_table(f"test scores; the winner was chosen on dev, the answers were opened {openings}")
    for role, candidate_id in winners.items():
        row = store.candidate(candidate_id)
        titles = {"winner": f"winner {row.id}", "baseline": f"best baseline on dev: {_title(row)}"}
        _add_counts(table, titles.get(role, _title(row)), counts[candidate_id])
    return Group(table, *(_verdict(store, winners, role) for role in ("seed", "baseline")))


def _verdict(store: Store, winners: dict[str, str], against: str) -> Text:
    """The winner against another on the same test questions, in words."""
    ours, theirs = ([a.correct for a in store.answers(winners[r], Split.TEST)] for r in ("winner", against))
    difference, low, high = paired_difference(ours, theirs)
    said = "better" if low > 0 else "worse" if high < 0 else "not resolved: the interval holds 0"
    names = {"seed": "the seed", "baseline": "the best baseline on dev"}
    return Text(f"winner - {names[against]}: {difference:+.3f}, 95 % {low:+.3f} to {high:+.3f} (paired): {said}")


def final_tables(store: Store) -> RenderableType:
    """What stands at the end of a run."""
    isolation = Text(f"sandbox isolation: {store.get_meta('isolation') or 'no program has run'}", style="dim")
    return Group(dev_table(store), Text(), test_table(store), isolation)


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
    for split in (Split.DEV, Split.TEST):
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


def _score_table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("algorithm", overflow="fold")
    for column in ("correct", "score", "95 % interval", "cut", "unread"):
        table.add_column(column, justify="right", no_wrap=True)
    table.caption = "cut: answers ended by the token limit; unread: answers that could not be parsed"
    table.caption_justify = "left"
    return table


def _add_counts(table: Table, title: str, counted: Score | None) -> None:
    if counted is None:
        table.add_row(title, *["-"] * 5)
        return
    low, high = counted.interval
    table.add_row(
        title, f"{counted.correct}/{counted.total}", f"{counted.correct / counted.total:.3f}",
        f"{low:.3f}-{high:.3f}", str(counted.truncated), str(counted.unparsable),
    )  # fmt: skip


def _seed_counts(store: Store) -> Score | None:
    counts = store.counts(Split.DEV)
    seeds = [row for row in store.candidates(0) if row.kind == "seed"]
    return counts.get(seeds[0].id) if seeds else None
