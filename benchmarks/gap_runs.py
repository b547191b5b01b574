"""Self-improvement of the embedded solver, really run: the second half of `reproduce_gap.py`.

    python benchmarks/reproduce_gap.py --selfimprove --seeds 1 2 3 --epochs 10

Per seed four runs of `selfdev selfimprove` with the same questions and streams: no external answers, and equally many
gold worked answers early (epoch 1), uniformly, or late (the epoch at 80 %). Recorded: curves, fits with one rate and a
rate each, the end forecast from the first three epochs, and the end of every schedule beside the others, paired over
seeds. Sizes and learning rate were chosen on seed 0, which is none of the recorded ones; what these show stays in,
whatever it is.

One question is asked, its contrast and margin fixed before the results were seen: does timing matter, that is, does U_s
end elsewhere with early than with late external answers (`PRIMARY`)? The two count as equivalent where a difference of
more than `MARGIN_SHARE` of the fall of U_s without external answers is excluded (two one-sided t tests at `LEVEL`,
paired over seeds). No difference found is not equivalence: three seeds may resolve neither. All other contrasts have
p-values with Holm's correction over all of them; their intervals are not to be read one by one.

A run that was stopped is continued; its directory is in `--work`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import record
from rich.console import Console
from scipy import stats

from selfdev.cli.selfimprove import execute
from selfdev.config import TaskConfig
from selfdev.dynamics import Estimate, mean_interval
from selfdev.selfimprove.settings import CrossConfig, ImproveConfig, SolverTrainConfig
from selfdev.stats import holm

SCHEDULES = ("none", "early", "uniform", "late")
PRIMARY = ("early", "late", "solver")
MARGIN_SHARE = 0.1  # of the fall of U_s from start to end without external answers, mean over seeds
LEVEL = 0.05
PAIRS = (("early", "none"), ("uniform", "none"), ("late", "none"), ("early", "uniform"), ("late", "uniform"),
         ("early", "late"))  # fmt: skip
ENDS = ("solver", "verifier", "gap", "solver_per_token", "verifier_per_token", "tokens", "score", "selected_score",
        "any_right")  # fmt: skip
KEPT = ("time", *ENDS, "solver_all", "kept", "truncated", "answers")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the second half."""
    parser.add_argument("--selfimprove", action="store_true", help="run the embedded solver instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--measure-questions", type=int, default=96)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--share", type=float, default=0.5, help="external answers over training questions")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/reproduce_gap"), help="directories of the runs")
    parser.add_argument("--name", default="reproduce_gap_runs", help="of the result file")


def settings(options: argparse.Namespace, schedule: str, seed: int) -> ImproveConfig:
    """One run."""
    return ImproveConfig(
        model="zoo:solver-seed",
        task=TaskConfig(name="arithmetic", dev_size=options.questions, test_size=options.measure_questions),
        epochs=options.epochs,
        samples=options.samples,
        train=SolverTrainConfig(learning_rate=options.learning_rate),
        cross=CrossConfig(schedule=schedule, share=options.share),
        threads=options.threads,
        seed=seed,
    )


def main(options: argparse.Namespace) -> None:
    """Run everything, print the tables, write the record."""
    console = Console()
    found: dict[str, list[dict[str, Any]]] = {schedule: [] for schedule in SCHEDULES}
    begun, cpu = time.monotonic(), time.process_time()
    for seed in options.seeds:
        for schedule in SCHEDULES:
            console.print(f"\nseed {seed}, external answers: {schedule}")
            path = options.work / f"seed{seed}-{schedule}"
            found[schedule].append(execute(settings(options, schedule, seed), path, console))
    results = {
        "settings": settings(options, "none", options.seeds[0]).model_dump(mode="json"),
        "seeds": options.seeds,
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "runs": {name: [run_record(run) for run in runs] for name, runs in found.items()},
        "dynamics": dynamics(found["none"]),
        "ends": {name: ends(runs) for name, runs in found.items()},
        "primary": primary(found),
        "differences": differences(found),
        "gamma": gammas(found),
    }
    show(console, results)
    print(record.write(options.name, results))


def run_record(run: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run is kept: rounded curves and everything that was fitted."""
    curve = {name: [rounded(point[name]) for point in run["points"]] for name in KEPT}
    names = ("one_rate", "a_rate_each", "r2_one_rate", "equal_rates_p", "forecast", "external", "trained")
    return {"curve": curve} | {name: run[name] for name in names}


def dynamics(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the seeds, self-improvement alone: what falls, what fits, what the first epochs forecast."""
    changes = {name: over([minus(run["points"][-1], run["points"][0], name) for run in runs]) for name in ENDS}
    told: dict[str, Any] = {
        "change": changes,
        "r2_one_rate": [run["r2_one_rate"] for run in runs],
        "r2_a_rate_each": [
            run["a_rate_each"] and [run["a_rate_each"][name]["r2"] for name in ("solver", "verifier")] for run in runs
        ],
        "equal_rates_p": [run["equal_rates_p"] for run in runs],
    }
    forecasts = [run["forecast"] for run in runs if run["forecast"] is not None]
    if forecasts:
        told["forecast_miss_nats"] = {
            model: {
                name: over([abs(f["models"][model][name]["value"] - f["actual"][name]) for f in forecasts])
                for name in ("solver", "verifier")
            }
            for model in forecasts[0]["models"]
        }
        told["forecast_interval_holds_the_end"] = [
            {name: holds(f["interval_one_rate"][name], f["actual"][name]) for name in ("solver", "verifier")}
            for f in forecasts
        ]
    return told


def holds(interval: Mapping[str, float | None], value: float) -> bool:
    """Whether an interval, unbounded where it says null, has the value."""
    low, high = interval["low"], interval["high"]
    return (low is None or low <= value) and (high is None or value <= high)


def ends(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Values at the end, over the seeds."""
    return {name: over([run["points"][-1][name] for run in runs]) for name in ENDS}


def minus(first: Mapping[str, Any], second: Mapping[str, Any], name: str) -> float | None:
    """Difference of a value of two points; None where one has none."""
    return None if first[name] is None or second[name] is None else first[name] - second[name]


def paired(found: Mapping[str, Sequence[Mapping[str, Any]]], first: str, second: str, name: str) -> list[float | None]:
    """A value at the end of one schedule minus that of another, by seed."""
    runs = zip(found[first], found[second], strict=True)
    return [minus(a["points"][-1], b["points"][-1], name) for a, b in runs]


def differences(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Values at the end of one schedule minus those of another, paired over the seeds; `p_holm` is adjusted for all of
    them but the primary contrast, which is told apart."""
    told = {f"{a} - {b}": {name: over(paired(found, a, b, name)) for name in ENDS} for a, b in PAIRS}
    first, second, quantity = PRIMARY
    others = [told[pair][name] for pair in told for name in ENDS if (pair, name) != (f"{first} - {second}", quantity)]
    tested = [(row, p) for row in others if (p := p_value(row["values"])) is not None]
    for (row, p), adjusted in zip(tested, holm([p for _, p in tested]), strict=True):
        row |= {"p": rounded(p), "p_holm": rounded(adjusted)}
    return told


def primary(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The primary contrast: difference, margin, p-values of "different" and of "equivalent", and what is resolved."""
    first, second, name = PRIMARY
    values = paired(found, first, second, name)
    falls = [minus(run["points"][0], run["points"][-1], name) for run in found["none"]]
    told = {"contrast": f"{first} - {second}", "quantity": name} | over(values)
    known = [value for value in values if value is not None]
    if len(known) < max(2, len(values)) or None in falls:
        return told | {"verdict": "not resolved"}
    margin = MARGIN_SHARE * abs(fmean(fall for fall in falls if fall is not None))
    different, equal = p_value(known), equivalence(known, margin)
    # the smallest margin at which these seeds would show equivalence
    least = max(map(abs, (getattr(mean_interval(known, 1 - 2 * LEVEL), side) for side in ("low", "high"))))
    verdicts = [word for word, p in (("different", different), ("equivalent", equal)) if p is not None and p < LEVEL]
    return told | {
        "margin": rounded(margin),
        "p_different": rounded(different),
        "p_equivalent": rounded(equal),
        "least_margin": rounded(least),
        "verdict": " and ".join(verdicts) or "not resolved",
    }


def p_value(values: Sequence[float | None]) -> float | None:
    """Two-sided paired t test of a mean of 0; None where a value is missing or there is one seed."""
    known = [value for value in values if value is not None]
    if len(known) < max(2, len(values)):
        return None
    if len(set(known)) == 1:
        return 1.0 if known[0] == 0 else 0.0
    return float(stats.ttest_1samp(known, 0.0).pvalue)


def equivalence(values: Sequence[float], margin: float) -> float:
    """p-value of "the mean lies within the margin of 0": the larger of two one-sided t tests (Schuirmann 1987)."""
    if len(set(values)) == 1:
        return 0.0 if abs(values[0]) < margin else 1.0
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    return float(max(below, above))


def gammas(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """gamma as the paper defines it, from U_v before and after an epoch of the run itself; and, where all external
    answers come in at once, beside the run without them at the end of that epoch (until then the histories agree).
    """
    told: dict[str, Any] = {}
    for name in SCHEDULES[1:]:
        fitted = [run["external"]["gamma"] for run in found[name]]
        told[name] = {"before_and_after": over([None if gamma is None else gamma["value"] for gamma in fitted])}
        if name != "uniform":
            told[name]["beside_none"] = over(
                [beside(alone, run) for alone, run in zip(found["none"], found[name], strict=True)]
            )
    return told


def beside(alone: Mapping[str, Any], run: Mapping[str, Any]) -> float | None:
    """U_v of the run without external answers over that with them, less 1, where they came in; None without rows."""
    epoch = next((1 + i for i, rows in enumerate(run["external"]["rows"]) if rows), None)
    if epoch is None:
        return None
    without, with_them = (told["points"][2 * epoch]["verifier"] for told in (alone, run))
    return without / with_them - 1 if without is not None and with_them else None


def over(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean over seeds with its 95 % t interval: null with one seed; all null where a seed has no value."""
    known = [value for value in values if value is not None]
    told = dict.fromkeys(("value", "low", "high")) if len(known) < len(values) else estimate(mean_interval(known))
    return {"values": [rounded(v) for v in values]} | told


def estimate(found: Estimate) -> dict[str, float | None]:
    """Rounded; null where unbounded."""
    names = ("value", "low", "high")
    values = {name: getattr(found, name) for name in names}
    return {name: rounded(v) if isfinite(v) else None for name, v in values.items()}


def rounded(value: float | None) -> float | None:
    """Five digits behind the point."""
    return None if value is None else round(value, 5)


def show(console: Console, results: Mapping[str, Any]) -> None:
    """The lines that answer the questions."""
    shown = ("solver", "verifier", "score", "selected_score")
    for title, rows in (("end", results["ends"]), ("paired difference at the end", results["differences"])):
        for name, row in rows.items():
            console.print(f"{title}, {name}: " + ", ".join(f"{key} {text(row[key])}" for key in shown))
    asked = results["primary"]
    console.print(
        f"does timing matter? {asked['quantity']} at the end, {asked['contrast']}: {text(asked)}, margin "
        f"{asked.get('margin')}, p different {asked.get('p_different')}, p equivalent {asked.get('p_equivalent')}: "
        f"{asked['verdict']} (equivalent from a margin of {asked.get('least_margin')})"
    )
    others = [row["p_holm"] for each in results["differences"].values() for row in each.values() if "p_holm" in row]
    console.print(f"other contrasts: {sum(p < LEVEL for p in others)} of {len(others)} below {LEVEL} after Holm")
    told = results["dynamics"]
    console.print("change without external answers: " + ", ".join(f"{k} {text(told['change'][k])}" for k in shown))
    for model, row in told.get("forecast_miss_nats", {}).items():
        console.print(f"end from the first epochs, {model}: misses U_s by {text(row['solver'])}, "
                      f"U_v by {text(row['verifier'])}")  # fmt: skip
    for name, row in results["gamma"].items():
        console.print(f"gamma, {name}: " + ", ".join(f"{key} {text(value)}" for key, value in row.items()))


def text(found: Mapping[str, Any]) -> str:
    """mean (low to high)."""
    if found["value"] is None:
        return "-"
    if found["low"] is None:
        return f"{found['value']:+.3f}"
    return f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
