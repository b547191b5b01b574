"""Dynamics of the solver-verifier gap (Sun et al., arXiv 2507.00075): model, fits, forecasts, advice. Pure.

curves   what is measured: solver and verifier uncertainty over time
model    the coupled equations, closed form, simulated curves
cross    external verification
profile  exponentials with a common rate: least squares and profile intervals
fit      what curves identify, with intervals; tests of the one rate that the model demands
compare  held-out forecasts: one rate, a rate each, persistence
signals  stop advice, alarm, what this many points can tell
"""

from __future__ import annotations

from selfdev.dynamics.compare import Forecasts, Model, compare, forecast, held_out_error
from selfdev.dynamics.cross import cross_limit, cross_rounds, cross_verified, fit_gamma
from selfdev.dynamics.curves import Curve
from selfdev.dynamics.fit import FreeFit, GapFit, Noise, conserved, fit
from selfdev.dynamics.model import GapModel, add_noise, integrate, simulate
from selfdev.dynamics.profile import Estimate, mean_interval
from selfdev.dynamics.signals import Advice, Alarm, advise, blind_spot, default_tolerance, notes

__all__ = [
    "Curve", "GapModel", "add_noise", "integrate", "simulate",
    "Estimate", "FreeFit", "GapFit", "Noise", "fit", "conserved", "mean_interval",
    "Forecasts", "Model", "compare", "forecast", "held_out_error",
    "Advice", "Alarm", "advise", "blind_spot", "default_tolerance", "notes",
    "cross_limit", "cross_rounds", "cross_verified", "fit_gamma",
]  # fmt: skip
