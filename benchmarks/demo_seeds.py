"""The demo over several seeds beside its equal-budget controls: dev, test of what was registered, intervals, cost.

    python benchmarks/demo_seeds.py --seeds 1 2 3 4 5 --runs-dir demo-seeds

Every run is a whole `selfdev run`, then `selfdev control` for each control and one `selfdev test` for all of them. What
exists already in the directory is continued, so seeds may run side by side in several processes and one more call puts
them together. Times are those of the phases that the stores hold. Reports what it is: no run is left out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record

from selfdev.pair import by_gain
from selfdev.report.arms import Arm, arms, mean_interval
from selfdev.report.tables import funnel
from selfdev.report.test import comparisons
from selfdev.score import Score
from selfdev.store import Store
from selfdev.types import Split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--runs-dir", type=Path, required=True, help="where the run directories are made")
    parser.add_argument("--controls", nargs="+", default=["untrained", "grammar", "random", "tpe", "cma", "tuned"],
                        help="equal-budget controls; 'none' for none")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, as in selfdev run")
    parser.add_argument("--name", default="demo_seeds", help="name of the result file")
    options = parser.parse_args()
    options.controls = [] if options.controls == ["none"] else options.controls
    runs = [run(options, seed) for seed in options.seeds]
    path = record.write(options.name, {"runs": runs, "table": table(runs)})
    print(path)


def run(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run with its controls and the opening of its test set, then its figures."""
    directory = options.runs_dir / f"{options.preset}-seed{seed}"
    command = ["run", "--iterations", "3", "--preset", options.preset, "--seed", str(seed), "--run-dir", str(directory)]
    selfdev(*command, *(part for text in options.set for part in ("--set", text)))
    for arm in options.controls:
        selfdev("control", arm, str(directory))
    selfdev("test", str(directory))
    return {"seed": seed, **figures(directory)}


def selfdev(*arguments: str) -> None:
    """One command."""
    subprocess.run([sys.executable, "-m", "selfdev", *arguments], check=True)


def figures(directory: Path) -> dict[str, Any]:
    """What a store says about its run."""
    store = Store(directory / "store.sqlite", read_only=True)
    try:
        dev, test, roles = store.final_counts(), store.counts(Split.TEST), store.winners()
        return {
            "iterations": [iteration(store, row) for row in store.iterations()],
            "arms": {a.kind: arm_figures(a) for a in arms(store)},
            "dev": {role: share(dev[i]) for role, i in roles.items() if i in dev},
            "test": {role: {"score": share(test[i]), "interval": test[i].interval, "n": test[i].total}
                     for role, i in roles.items() if i in test},
            "comparisons": [{**asdict(c), "difference": c.difference} for c in comparisons(store)],
            "baseline": store.candidate(roles["baseline"]).name if roles else None,
            "noise": store.get_meta("seed against itself"),
            "seconds": seconds(store),
        }  # fmt: skip
    finally:
        store.close()


def seconds(store: Store) -> dict[str, float]:
    """Seconds of the run, of each control and of the test, without starting Python and loading models."""
    found: Counter[str] = Counter()
    kinds = {arm.kind for arm in arms(store)} - {"generated"}
    for phases in store.seconds().values():
        for phase, spent in phases.items():
            owner = next((kind for kind in kinds if phase.startswith(f"{kind} ")), "run")
            found["test" if phase == "test" else owner] += spent
    return {name: round(spent, 1) for name, spent in found.items()}


def arm_figures(a: Arm) -> dict[str, Any]:
    """The run's or a control's line."""
    return {
        "drawn": a.drawn, "valid": a.valid, "question_evaluations": a.evaluations, "mean_dev": a.mean, "best": a.best,
        "best_dev": None if a.final is None else share(a.final), "gain_over_seed": a.gain,
        "test": None if a.test is None else share(a.test),
    }  # fmt: skip


def iteration(store: Store, row: dict[str, Any]) -> dict[str, Any]:
    """One iteration's figures. Scores of the best: on questions that no decision of the race saw."""
    candidates = store.scored(row["iteration"])
    opening = [c.opening_score for c in candidates if c.opening_score is not None and c.duplicate_of is None]
    best = by_gain(candidates)
    counted = funnel(candidates)
    dropped = Counter(c.standing.dropped for c in candidates if c.standing is not None and c.duplicate_of is None)
    return {
        **counted,
        "valid_share": round(counted["valid"] / counted["samples"], 3),
        "mean_dev": round(statistics.mean(opening), 4) if opening else None,
        "best_dev": best[0].score if best else None,
        "best_gain": best[0].gain if best else None,
        "race": {str(reason): count for reason, count in dropped.items()},
        "pairs": store.pair_count(row["iteration"]),
        "wrong_pairs": row["evidence"],
        "loss": row["train"]["loss"],
        "reward_margin": row["train"]["reward_margin"],
        "gap": row["gap"],
    }


def share(counted: Score) -> float:
    """Accuracy."""
    return counted.correct / counted.total


def table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds with t intervals run to run: seed, baseline, controls, the run and its iterations."""
    lines: dict[str, Any] = {
        name: {"dev": over([r["dev"].get(role) for r in runs]), "test": over([test_score(r, role) for r in runs])}
        for name, role in (("seed model", "seed"), ("best of the run's baselines", "baseline"))
    }
    for kind in dict.fromkeys(kind for r in runs for kind in r["arms"]):
        each = [r["arms"][kind] for r in runs if kind in r["arms"]]
        lines["selfdev" if kind == "generated" else kind] = {
            "question_evaluations": over([a["question_evaluations"] for a in each]),
            "mean_dev": over([a["mean_dev"] for a in each]),
            "best_dev": over([a["best_dev"] for a in each]),
            "test": over([a["test"] for a in each]),
        }
    for number in range(min(len(r["iterations"]) for r in runs)):
        rows = [r["iterations"][number] for r in runs]
        lines[f"selfdev iteration {number + 1}"] = {
            name: over([row[name] for row in rows]) for name in ("valid_share", "mean_dev", "best_dev", "best_gain")
        }
    lines["seconds"] = {name: over([r["seconds"].get(name) for r in runs]) for name in runs[0]["seconds"]}
    return lines


def test_score(run: dict[str, Any], role: str) -> float | None:
    """Test score of a role."""
    score: float | None = run["test"].get(role, {}).get("score")
    return score


def over(values: list[float | None]) -> dict[str, Any]:
    """Mean and 95 % t interval over the seeds that have a value."""
    found = [v for v in values if v is not None]
    if not found:
        return {"mean": None, "n": 0}
    interval = [round(v, 4) for v in mean_interval(found)] if len(found) > 1 else None
    return {"mean": round(statistics.mean(found), 4), "interval": interval, "n": len(found)}


if __name__ == "__main__":
    main()
