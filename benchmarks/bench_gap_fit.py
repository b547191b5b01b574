"""Fits of the solver-verifier gap: do the intervals cover, when do they refuse, what do tests and alarm find.

    python benchmarks/bench_gap_fit.py                 # everything, about ten minutes on one core
    python benchmarks/bench_gap_fit.py --curves 40     # a quick look

Curves are simulated from the closed form (solver 30 to 20, verifier 23 to 18, alpha / beta = 2) over a grid of lengths,
noise (standard deviation as a share of each drop), rates (rate x duration: 2 is a curve that ends 14 % above its
limit, 4 one that ends 2 % above) with errors of solver and verifier correlated 0.5. "scatter" fits estimate the noise,
"given" fits are told it. Coverage: share of 95 % intervals that hold the planted value, unbounded ones included, with
the binomial standard error; `told` is the share of bounded intervals, `covered_told` coverage among those.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import product
from math import exp, sqrt
from typing import Any

import numpy as np
import record

from selfdev.dynamics import Curve, Estimate, GapModel, blind_spot, simulate
from selfdev.dynamics.fit import SOLVER, VERIFIER, data, equal_rates, identified, line_bend
from selfdev.dynamics.profile import profile

DROP, RATIO, GAP_LIMIT, SOLVER_LIMIT = 10.0, 2.0, 2.0, 20.0
CORRELATION = 0.5
POINTS = {"scatter": (6, 8, 10, 20), "given": (3, 4, 6, 20)}
NOISES = (0.005, 0.02, 0.05, 0.1)
TURNS = (2.0, 4.0)  # rate x duration; the duration is 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=400, help="simulated curves per line")
    options = parser.parse_args()
    begun = time.monotonic()
    lines = list(coverage(options.curves))
    results: dict[str, Any] = {
        "curves_per_line": options.curves,
        "coverage_over_all": show("95 % intervals, over the grid", list(pooled(lines))),
        "coverage": lines,
        "refusals": show("curves that do not move: share of intervals that are bounded", list(flat(options.curves))),
        "equal_rates": show(
            "test of equal rates and of the straight line: share of p < 0.05", list(tests(options.curves))
        ),
        "alarm": show("share of runs with an alarm", list(alarms(5 * options.curves))),
    }
    results["seconds"] = round(time.monotonic() - begun, 1)
    print(record.write("bench_gap_fit", results))


# -- intervals --------------------------------------------------------------------------------------------------------


def planted(turns: float) -> GapModel:
    """The model with this rate x duration."""
    rate = turns / 10
    k = rate / (1 - 1 / RATIO)
    return GapModel(1.0, 1 / RATIO, k, k * GAP_LIMIT, SOLVER_LIMIT + DROP, SOLVER_LIMIT - GAP_LIMIT + DROP / RATIO)


def truth(model: GapModel, step: float) -> dict[str, float]:
    now = model.at(10.0)[0]
    return {
        "rate": model.rate,
        "ratio": RATIO,
        "gap_limit": model.gap_limit,
        "solver_limit": model.solver_limit,
        "verifier_limit": model.verifier_limit,
        "solver_left": now - model.solver_limit,
        "next_gain": now - model.at(10.0 + step)[0],
    }


def draw(model: GapModel, points: int, noise: float, seed: int, given: bool) -> Curve:
    deviations = (noise * DROP, noise * DROP / RATIO)
    times = np.linspace(0.0, 10.0, points).tolist()
    curve = simulate(model, times, deviations, CORRELATION, seed)
    if not given:
        return curve
    errors = [(deviation,) * points for deviation in deviations]
    return Curve(curve.times, curve.solver, curve.verifier, errors[0], errors[1], CORRELATION)


def coverage(curves: int) -> Iterator[dict[str, Any]]:
    number = 0  # no two lines share draws
    for kind, turns in product(POINTS, TURNS):
        for points, noise in product(POINTS[kind], NOISES):
            number += curves
            model = planted(turns)
            step = 10.0 / (points - 1)
            true = truth(model, step)
            found = [
                identified(profile(data(draw(model, points, noise, number + i, kind == "given"))), step)
                for i in range(curves)
            ]
            figures = {name: figure([f[name] for f in found], value) for name, value in true.items()}
            line = {"noise_is": kind, "points": points, "noise": noise, "rate_x_duration": turns, **figures}
            print(brief(line), flush=True)
            yield line


def figure(estimates: Sequence[Estimate], true: float) -> dict[str, Any]:
    """Coverage and width of the intervals of one quantity."""
    held, bounded = [true in e for e in estimates], [e.bounded for e in estimates]
    told = [h for h, b in zip(held, bounded, strict=True) if b]
    widths = [(e.high - e.low) / 2 / abs(true) for e in estimates if e.bounded]
    return {
        "covered": round(float(np.mean(held)), 4),
        "told": round(float(np.mean(bounded)), 4),
        "covered_told": round(float(np.mean(told)), 4) if told else None,
        "half_width": round(float(np.median(widths)), 4) if widths else None,  # median, as a share of the true value
        "count": len(held),
    }


def pooled(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for kind in POINTS:
        chosen = [line for line in lines if line["noise_is"] == kind]
        for name in truth(planted(2.0), 1.0):
            shares = [line[name]["covered"] for line in chosen]
            count = sum(line[name]["count"] for line in chosen)
            mean = float(np.mean(shares))
            told = float(np.mean([line[name]["told"] for line in chosen]))
            missed = sum((1 - (line[name]["covered_told"] or 0)) * line[name]["told"] for line in chosen)
            yield {
                "noise_is": kind,
                "quantity": name,
                "covered": share(mean, count),
                "lowest": min(shares),
                "highest": max(shares),
                "lines_in_90_97": f"{sum(0.9 <= s <= 0.97 for s in shares)}/{len(shares)}",
                "told": round(told, 4),
                "covered_told": round(1 - missed / (told * len(chosen)), 4) if told else None,
            }


def flat(curves: int) -> Iterator[dict[str, Any]]:
    """Nothing happens: no rate, no ratio; limits and gain may be told (all is where it was)."""
    model = GapModel(1.0, 0.5, 0.4, 0.4 * GAP_LIMIT, SOLVER_LIMIT, SOLVER_LIMIT - GAP_LIMIT)
    for kind in POINTS:
        points = POINTS[kind][-1]
        found = [
            identified(profile(data(draw(model, points, 0.02, seed, kind == "given"))), 0.5) for seed in range(curves)
        ]
        bounded = {name: share(float(np.mean([f[name].bounded for f in found])), curves) for name in found[0]}
        yield {"noise_is": kind, "points": points, **bounded}


# -- tests ------------------------------------------------------------------------------------------------------------


def tests(curves: int) -> Iterator[dict[str, Any]]:
    for rates, points, noise in product(((0.4, 0.4), (0.4, 0.25)), (8, 20), (0.005, 0.02)):
        small = {"equal_rates": 0, "bend": 0}
        for seed in range(curves):
            curve = two_rates(rates, points, noise, seed)
            both = data(curve)
            shared = profile(both)
            small["equal_rates"] += equal_rates(both, shared, seed) < 0.05
            bend = line_bend(both, shared.ratio(VERIFIER, SOLVER).value)
            small["bend"] += bend is not None and bend < 0.05
        found = {name: share(count / curves, curves) for name, count in small.items()}
        yield {"solver_rate": rates[0], "verifier_rate": rates[1], "points": points, "noise": noise, **found}


def two_rates(rates: tuple[float, float], points: int, noise: float, seed: int) -> Curve:
    """Solver and verifier with rates of their own."""
    times = np.linspace(0.0, 10.0, points).tolist()
    errors = simulate(GapModel(1, 0, 1, 0, 0, 0), times, (noise * DROP, noise * DROP / RATIO), CORRELATION, seed)
    solver = tuple(SOLVER_LIMIT + DROP * exp(-rates[0] * t) + e for t, e in zip(times, errors.solver, strict=True))
    verifier = tuple(18 + DROP / RATIO * exp(-rates[1] * t) + e for t, e in zip(times, errors.verifier, strict=True))
    return Curve(tuple(times), solver, verifier)


# -- alarm ------------------------------------------------------------------------------------------------------------


def alarms(runs: int) -> Iterator[dict[str, Any]]:
    """Verifier falling all along; score: rises and levels off, stays, or falls after the fourth point."""
    for shape, points, given in product(("healthy", "level", "collapse"), (8, 20), (True, False)):
        fired = sum(alarm(shape, points, given, seed) for seed in range(runs))
        yield {"score": shape, "points": points, "errors_given": given, "alarm": share(fired / runs, runs)}


def alarm(shape: str, points: int, given: bool, seed: int) -> bool:
    """Accuracies on 500 questions; the collapse loses as much as was won."""
    rng = np.random.default_rng(seed)
    times = np.linspace(0.0, 10.0, points)
    verifier = 18 + 5 * np.exp(-0.4 * times) + rng.normal(0, 0.1, points)
    risen = 0.4 + 0.15 * (1 - np.exp(-0.5 * times))
    true = {"healthy": risen, "level": np.full(points, 0.4), "collapse": risen - 0.03 * np.maximum(times - 4, 0)}[shape]
    score = rng.binomial(500, true) / 500
    errors = np.sqrt(np.maximum(score * (1 - score), 1e-4) / 500)
    curve = Curve(
        tuple(times.tolist()),
        tuple((verifier + 2).tolist()),
        tuple(verifier.tolist()),
        score=tuple(score.tolist()),
        score_se=tuple(errors.tolist()) if given else None,
    )
    found = blind_spot(curve)
    return found is not None and found.fired


# -- figures ----------------------------------------------------------------------------------------------------------


def share(value: float, count: int) -> list[float]:
    """[share, standard error]."""
    return [round(value, 4), round(sqrt(value * (1 - value) / count), 4)]


def brief(line: dict[str, Any]) -> str:
    parts = [f"{key} {value}" for key, value in line.items() if not isinstance(value, dict)]
    shares = [f"{key} {v['covered']:.3f} ({v['told']:.2f})" for key, v in line.items() if isinstance(v, dict)]
    return "  ".join(parts + shares)


def show(title: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print the lines as they will be recorded."""
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(f"{key} {value}" for key, value in line.items()), flush=True)
    return lines


if __name__ == "__main__":
    main()
