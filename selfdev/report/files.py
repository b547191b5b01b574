"""Files that people read: every scored algorithm, every preference pair. Views of the store, written again at will."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from selfdev.pair import ranked
from selfdev.report.tables import printable
from selfdev.rundir import write_atomic
from selfdev.store import CandidateRow, Store
from selfdev.types import ScoredCandidate


def write_iteration_files(run: Path, store: Store, iteration: int, prompt: str) -> None:
    """Write algorithms/iteration-N/ and pairs/iteration-N.jsonl."""
    write_algorithms(run / "algorithms" / f"iteration-{iteration}", store, iteration)
    write_pairs(run / "pairs" / f"iteration-{iteration}.jsonl", store, iteration, prompt)


def write_algorithms(folder: Path, store: Store, iteration: int) -> None:
    """One runnable file per scored program, best first; programs whose merge repeats an earlier one are counted."""
    candidates = store.scored(iteration)
    rows = {row.id: row for row in store.candidates(iteration, "generated")}
    repeats: dict[str, int] = {}
    for c in store.scored():
        if c.duplicate_of is not None:
            repeats[c.duplicate_of] = repeats.get(c.duplicate_of, 0) + 1
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for rank, c in enumerate(ranked(candidates), start=1):
        text = algorithm_text(c, rows[c.id], rank, repeats.get(c.id, 0))
        (temporary / f"rank-{rank:03d}_dev-{c.measured:.2f}_{c.id}.py").write_text(text, "utf-8", newline="\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def algorithm_text(candidate: ScoredCandidate, row: CandidateRow, rank: int, repeats: int) -> str:
    """The source below a header of comments that says where it comes from."""
    header = {
        "selfdev algorithm": candidate.id,
        "iteration": f"{candidate.iteration}, sample {candidate.index}",
        "rank": f"{rank} of this iteration's scored programs",
        "dev": dev_text(candidate),
        "status": str(candidate.status),
        "tags": ", ".join(row.tags) or "none",
        "generator checkpoint": row.checkpoint,
        "temperature": f"{row.temperature:g}",
        "sampling seed": str(row.sample_seed),
        "execution seed": f"{row.execution_seed} (of the program's own random draws)",
        "later programs with the same merge": str(repeats),
    }
    lines = [f"# {key}: {value}" for key, value in header.items()]
    return "\n".join(lines) + "\n\n" + printable(candidate.source).strip("\n") + "\n"


def dev_text(c: ScoredCandidate) -> str:
    """What dev says of a program, and on which questions."""
    if c.score is not None:
        where = "" if c.standing is None else " on questions held out from the race"
        return f"{c.correct}/{c.total} = {c.score:.4f}{where}, {c.gain:+.4f} over the seed on the same"
    assert c.standing is not None
    return f"no estimate; {c.standing.correct} of {c.standing.asked} right, then dropped ({c.standing.dropped})"


def write_pairs(path: Path, store: Store, iteration: int, prompt: str) -> None:
    """One JSON object per pair: prompt, chosen, rejected, and where they come from. Loads with `datasets`."""
    lines = []
    for pair in store.pairs(iteration, prompt):
        lines.append(
            json.dumps(
                {
                    "prompt": pair.prompt,
                    "chosen": pair.chosen,
                    "rejected": pair.rejected,
                    "chosen_score": pair.chosen_score,
                    "rejected_score": pair.rejected_score,
                    "chosen_id": pair.chosen_id,
                    "rejected_id": pair.rejected_id,
                },
                ensure_ascii=False,
            )
        )
    write_atomic(path, "".join(line + "\n" for line in lines))
