"""The demo over several seeds: what share of samples is valid, how dev scores move, and how the winner does on test.

    python benchmarks/demo_seeds.py --seeds 1 2 3 --runs-dir demo-seeds

Every run is a whole `selfdev run` in its own process; its wall-clock time and the resident memory of its largest
process are measured. Reports what it is: no run is left out.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import record

from selfdev.pair import ranked
from selfdev.report.tables import funnel
from selfdev.score import Score
from selfdev.store import Store
from selfdev.types import Split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--runs-dir", type=Path, required=True, help="where the run directories are made")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, as in selfdev run")
    parser.add_argument("--name", default="demo_seeds", help="name of the result file")
    options = parser.parse_args()
    runs = [run(options, seed) for seed in options.seeds]
    path = record.write(options.name, {"runs": runs, "summary": summarise(runs)})
    print(path)


def run(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run, then its figures."""
    directory = options.runs_dir / f"{options.preset}-seed{seed}"
    command = [sys.executable, "-m", "selfdev", "run", "--iterations", "3", "--preset", options.preset]
    command += ["--seed", str(seed), "--run-dir", str(directory)]
    command += [part for text in options.set for part in ("--set", text)]
    begun = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # the largest child so far
    return {"seed": seed, "seconds": round(seconds, 1), "peak_gib": round(peak, 2), **figures(directory)}


def figures(directory: Path) -> dict[str, Any]:
    """What a store says about its run."""
    store = Store(directory / "store.sqlite", read_only=True)
    try:
        dev, test = store.counts(Split.DEV), store.counts(Split.TEST)
        kinds = {row.kind: row for row in store.candidates(0)}
        winners = store.winners()
        return {
            "iterations": [iteration(store, row) for row in store.iterations()],
            "dev": {"seed": share(dev[kinds["seed"].id])}
            | {role: share(dev[i]) for role, i in winners.items() if role != "seed"},
            "test": {role: {"score": share(test[i]), "interval": test[i].interval, "n": test[i].total}
                     for role, i in winners.items()},
            "baseline": store.candidate(winners["baseline"]).name if winners else None,
            "seconds_per_phase": store.seconds(),
        }  # fmt: skip
    finally:
        store.close()


def iteration(store: Store, row: dict[str, Any]) -> dict[str, Any]:
    """One iteration's figures."""
    candidates = store.scored(row["iteration"])
    best = ranked(candidates)
    scores = [c.score for c in best if c.score is not None]
    counted = funnel(candidates)
    return {
        **counted,
        "valid_share": round(counted["valid"] / counted["samples"], 3),
        "mean_dev": round(statistics.mean(scores), 4) if scores else None,
        "best_dev": max(scores) if scores else None,
        "pairs": store.pair_count(row["iteration"]),
        "loss": row["train"]["loss"],
        "reward_margin": row["train"]["reward_margin"],
        "gap": row["gap"],
    }


def share(counted: Score) -> float:
    """Accuracy."""
    return counted.correct / counted.total


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, per iteration and for the winner."""
    depth = min(len(r["iterations"]) for r in runs)
    mean = statistics.mean
    return {
        "valid_share": [round(mean(r["iterations"][i]["valid_share"] for r in runs), 3) for i in range(depth)],
        "mean_dev": [round(mean(r["iterations"][i]["mean_dev"] or 0.0 for r in runs), 4) for i in range(depth)],
        "best_dev": [round(mean(r["iterations"][i]["best_dev"] or 0.0 for r in runs), 4) for i in range(depth)],
        "winner_minus_seed_on_test": [gain(r, "seed") for r in runs],
        "winner_minus_baseline_on_test": [gain(r, "baseline") for r in runs],
        "seconds": [r["seconds"] for r in runs],
        "peak_gib": max(r["peak_gib"] for r in runs),
    }


def gain(run: dict[str, Any], over: str) -> float:
    """Test score of the winner minus that of another."""
    return round(run["test"]["winner"]["score"] - run["test"][over]["score"], 4)


if __name__ == "__main__":
    main()
