"""The solver-verifier gap paper's reported fits, recomputed from its closed form (Sun et al., arXiv 2507.00075).

    python benchmarks/reproduce_gap.py
    python benchmarks/reproduce_gap.py --selfimprove --seeds 1 2 3 --epochs 10     (see gap_runs.py)

Neither data nor code of the paper are public, so its curves cannot be refitted. What can be done with its numbers:

- **Settings** (Phi-4-mini, R2 of solver, verifier and gap). With one rate, R2 of a curve is its noise as a share of its
  drop. If errors of solver and verifier are independent, the gap's R2 then fixes beta / alpha, by one quadratic
  equation per setting; with a positive correlation the same R2 mean a smaller alpha / beta. Curves planted with that
  noise and ratio (20 points in 10 epochs, as the paper measures) must give the reported R2 back. They show what fits
  with such R2 tell, by the widths of their intervals.
- **Two rates**. An independent analysis of one of the paper's figures found rates of 0.37-0.44 (solver) and 0.21-0.28
  (verifier) per epoch. Planted with 0.40 and 0.25 and the same noise: R2 of the fit with one rate, and how often the
  test of equal rates and held-out forecasts (fit on 15, forecast 5) find out.
- **Stages** (EvoLM: amplitude, rate and limit of the solver). The closed form with noise at the reported R2 of 0.999,
  refitted: recovered values, coverage, and what the first three epochs alone would have forecast.

Means over simulated curves with standard errors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from math import log, sqrt
from typing import Any

import gap_runs
import numpy as np
import record
from numpy.typing import NDArray

from selfdev.dynamics import Curve, Estimate, GapModel, Model, fit, held_out_error, simulate
from selfdev.dynamics.fit import alone, data
from selfdev.dynamics.profile import Data, at_time, profile

Array = NDArray[np.float64]

# R2 of solver, verifier and gap: Phi-4-mini, train split
SETTINGS = {
    "Math-QE": (0.998, 0.981, 0.981),
    "GSM8K-QE": (0.996, 0.966, 0.948),
    "Math-TF": (0.998, 0.979, 0.984),
    "GSM8K-TF": (0.998, 0.980, 0.989),
}
# amplitude, rate and limit of the solver's uncertainty
STAGES = {"Base-SFT": (146.3, 0.244, 45.6), "mid-training": (83.1, 0.182, 20.3), "post-training": (16.0, 0.074, 13.9)}
STAGE_R2 = 0.999
EPOCHS = [0.5 * (i + 1) for i in range(20)]  # two measurements an epoch, ten epochs
RATES = (0.40, 0.25)
MIDDLE = 0.32  # where one rate is planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=200, help="simulated curves per line")
    gap_runs.add_options(parser)
    options = parser.parse_args()
    if options.selfimprove:
        gap_runs.main(options)
        return
    begun = time.monotonic()
    results: dict[str, Any] = {
        "curves_per_line": options.curves,
        "settings": show("one rate, noise from the reported R2", list(settings(options.curves, (MIDDLE, MIDDLE)))),
        "two_rates": show("two rates, the same noise", list(settings(options.curves, RATES))),
        "stages": show("EvoLM stages", list(stages(options.curves))),
    }
    results["seconds"] = round(time.monotonic() - begun, 1)
    print(record.write("reproduce_gap", results))


# -- settings ---------------------------------------------------------------------------------------------------------


def implied_share(solver: float, verifier: float, gap: float) -> float:
    """beta / alpha for which independent errors with these R2 of solver and verifier give this R2 of the gap.

    Noise variance per variance of the signal is q = (1 - R2) / R2. With signals 1, x and 1 - x (in units of the
    solver's) the gap's noise is q_s + q_v x^2 = q_g (1 - x)^2.
    """
    q = [(1 - r2) / r2 for r2 in (solver, verifier, gap)]
    roots = np.roots([q[1] - q[2], 2 * q[2], q[0] - q[2]])
    inside = [float(root.real) for root in roots if abs(root.imag) < 1e-12 and 0 <= root.real < 1]
    if len(inside) != 1:
        raise ValueError(f"R2 {solver}, {verifier}, {gap}: no single beta / alpha in [0, 1) fits them")
    return inside[0]


def planted(share: float, r2: Sequence[float], rates: tuple[float, float], seed: int) -> Curve:
    """Solver and verifier that fall by 1 and `share` of it, with noise that gives these R2."""
    times = np.array(EPOCHS)
    clean = np.column_stack([np.exp(-rates[0] * times), share * np.exp(-rates[1] * times)])
    noise = clean.std(axis=0) * np.sqrt([(1 - r) / r for r in r2[:2]])
    # a fit takes up three of twenty points' noise: what is left around it must be what R2 says
    noise *= sqrt(len(times) / (len(times) - 3))
    noisy = clean + np.random.default_rng(seed).standard_normal(clean.shape) * noise
    return Curve(tuple(EPOCHS), tuple(noisy[:, 0].tolist()), tuple(noisy[:, 1].tolist()))


def settings(curves: int, rates: tuple[float, float]) -> Iterator[dict[str, Any]]:
    for number, (name, reported) in enumerate(SETTINGS.items()):
        share = implied_share(*reported)
        rows = [figures(planted(share, reported, rates, number * curves + i), i) for i in range(curves)]
        yield {
            "setting": name,
            "rates": f"{rates[0]} and {rates[1]}",
            "reported_r2": list(reported),
            "implied_alpha_over_beta": round(1 / share, 3),
            **summarise(rows),
        }


def figures(curve: Curve, seed: int) -> dict[str, float]:
    found = fit(curve, seed=seed)
    errors = {model: held_out_error(curve, model, 15) for model in Model}
    return {
        "r2_solver": found.solver_alone.r2,
        "r2_verifier": found.verifier_alone.r2,
        "r2_gap": found.gap_alone.r2,
        "r2_one_rate_solver": found.r2[0],
        "r2_one_rate_verifier": found.r2[1],
        "rate": found.rate.value,
        "rate_half_width": half_width(found.rate) / found.rate.value,
        "ratio_half_width": half_width(found.ratio) / found.ratio.value,
        "solver_limit_half_width": half_width(found.solver_limit),  # as a share of the drop
        "equal_rates_rejected": float((found.equal_rates_p or 1.0) < 0.05),
        "forecast_one_rate": errors[Model.SHARED],
        "forecast_a_rate_each": errors[Model.FREE],
        "forecast_persistence": errors[Model.PERSISTENCE],
    }


def half_width(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


# -- stages -----------------------------------------------------------------------------------------------------------


def stages(curves: int) -> Iterator[dict[str, Any]]:
    for number, (name, (amplitude, rate, limit)) in enumerate(STAGES.items()):
        # any verifier does: the solver's curve is that of amplitude, rate and limit
        model = GapModel(1.0, 0.5, 2 * rate, 0.0, limit + amplitude, limit + amplitude / 2)
        times = [0.0, *EPOCHS]
        clean = np.array([model.at(t)[0] for t in times])
        noise = float(clean.std()) * sqrt((1 - STAGE_R2) / STAGE_R2 * len(times) / (len(times) - 3))
        rows = [
            stage(simulate(model, times, (noise, noise / 2), seed=number * curves + i), model) for i in range(curves)
        ]
        yield {
            "stage": name,
            "reported": {"amplitude": amplitude, "rate": rate, "limit": limit, "r2": STAGE_R2},
            "noise_nats": round(noise, 3),
            "epochs_to_10_percent": round(log(10) / rate, 1),
            "drop_within_10_epochs": round(1 - float(np.exp(-10 * rate)), 3),
            **summarise(rows),
        }


def stage(curve: Curve, model: GapModel) -> dict[str, float]:
    """One refit of the solver's curve, and the forecast of its end from the first three epochs."""
    column = Data(data(curve).times, data(curve).values[:, :1], None)
    found, whole = alone(column), profile(column)
    early = profile(Data(column.times[:7], column.values[:7], None))
    end, true = early.estimate({0: 1.0}, at_time(10.0)), model.at(10.0)[0]
    start = whole.estimate({0: 1.0}, at_time(0.0)).value
    drop = model.solver0 - true
    return {
        "r2": found.r2,
        "amplitude": start - found.limit.value,
        "rate": found.rate.value,
        "limit": found.limit.value,
        "rate_covered": float(model.rate in found.rate),
        "limit_covered": float(model.solver_limit in found.limit),
        "limit_told": float(found.limit.bounded),
        "limit_half_width": half_width(found.limit) if found.limit.bounded else float("nan"),
        "end_from_3_epochs_miss": abs(end.value - true) / drop,
        "end_from_3_epochs_covered": float(true in end),
        "end_from_3_epochs_half_width": half_width(end) / drop,
    }


# -- figures ----------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """[mean, standard error] per figure; of an empty one, nothing."""
    return {name: spread([row[name] for row in rows]) for name in rows[0]}


def spread(values: Sequence[float]) -> list[float | None]:
    told = np.array([value for value in values if np.isfinite(value)])
    if not len(told):
        return [None, None]
    error = told.std(ddof=1) / sqrt(len(told)) if len(told) > 1 else 0.0
    return [round(float(told.mean()), 4), round(float(error), 5)]


def show(title: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print the lines as they will be recorded."""
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(f"{key} {text(value)}" for key, value in line.items()), flush=True)
    return lines


def text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], float):
        return f"{value[0]:.4f}±{value[1]:.4f}"
    return str(value)


if __name__ == "__main__":
    main()
