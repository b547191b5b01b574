"""Racing, fresh estimates, shrinking and pairs: what they save and what they cost, on simulated candidates or a run.

    python benchmarks/bench_racing.py                      # simulated
    python benchmarks/bench_racing.py --run runs/full      # recorded answers of a run without racing, replayed
    python benchmarks/bench_racing.py --run runs/full --raced runs/raced    # the same run with and without races

Simulated candidates answer questions beside a seed that is right on 70 %; a candidate with gain g and discordance d
wins a question with chance (d + g) / 2 and loses it with (d - g) / 2, independently of the other candidates given the
seed. Everything is compared with scoring every candidate on every question. Figures are means with the standard error
over races; no race is left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import record
from numpy.typing import NDArray

from selfdev.config import PairConfig
from selfdev.pair import by_gain, by_score, inverted_share, pair
from selfdev.power import resolvable_difference
from selfdev.race import RaceRules, RaceState, Reason, estimate, log_e_values, question_order, race
from selfdev.shrink import intact, shrunken_gains
from selfdev.stats import discordant, e_bh, paired_interval
from selfdev.store import Store
from selfdev.types import ExecutionStatus, PreferencePair, ScoredCandidate

SEED_ACCURACY = 0.7
CANDIDATES = 96
QUESTIONS = 500
RULES = {"block": 16, "held_out": 100, "keep": 15}
# shares of broken, mediocre, near and better candidates
MIXES = {"early": (0.35, 0.40, 0.125, 0.125), "many better": (0.10, 0.30, 0.20, 0.40)}
Gains = NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """One simulated iteration."""

    seed: list[bool]
    rows: dict[str, list[bool]]
    gains: dict[str, float]  # true accuracy minus that of the seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run directory; its dev answers are replayed in random orders")
    parser.add_argument("--raced", type=Path, help="the same run with races")
    parser.add_argument("--races", type=int, default=100, help="simulated races or orders per line")
    parser.add_argument("--name", default=None, help="name of the result file")
    options = parser.parse_args()
    begun = time.monotonic()
    results = replay(options.run, options.races) if options.run else simulate(options.races)
    if options.raced:
        results["raced"] = show("with races against without", [beside(options.run, options.raced)])[0]
    results["seconds"] = round(time.monotonic() - begun, 1)
    print(record.write(options.name or ("bench_racing_run" if options.run else "bench_racing"), results))


def simulate(races: int) -> dict[str, Any]:
    """All simulated parts."""
    return {
        "races_per_line": races,  # half as many for pairs
        "setting": {"candidates": CANDIDATES, "questions": QUESTIONS, "seed_accuracy": SEED_ACCURACY, **RULES},
        "false_better": show("false 'better than the seed' at any time", false_better(20 * races)),
        "racing": show("racing against scoring everything", list(racing(races))),
        "winners_curse": show("measured minus true gain of the winner", list(winners_curse(races))),
        "pairs": show("pairs", list(pairs(races // 2))),
        "resolvable": show("difference found 4 times in 5", resolution()),
    }


# -- candidates -------------------------------------------------------------------------------------------------------


def draw_gains(rng: np.random.Generator, shares: Sequence[float], count: int = CANDIDATES) -> Gains:
    """True gains of a mix of broken, mediocre, near and better candidates."""
    broken, mediocre, near = (int(share * count) for share in shares[:3])
    parts = [(-0.7, -0.5, broken), (-0.2, -0.04, mediocre), (-0.02, 0.02, near)]
    parts.append((0.02, 0.08, count - broken - mediocre - near))
    return np.concatenate([rng.uniform(low, high, number) for low, high, number in parts])


def draw_field(rng: np.random.Generator, gains: Gains, discordance: float, questions: int = QUESTIONS) -> Field:
    """Answers of the seed and of candidates with these gains."""
    apart = np.maximum(discordance, np.abs(gains) + 0.02)[:, None]
    gain = gains[:, None]
    wins = np.minimum(1.0, (apart + gain) / 2 / (1 - SEED_ACCURACY))  # given that the seed is wrong
    losses = np.minimum(1.0, (apart - gain) / 2 / SEED_ACCURACY)  # given that it is right
    seed = rng.random(questions) < SEED_ACCURACY
    chance = rng.random((len(gains), questions))
    right = np.where(seed, chance >= losses, chance < wins)
    names = [f"{i:03}" for i in range(len(gains))]
    exact = wins[:, 0] * (1 - SEED_ACCURACY) - losses[:, 0] * SEED_ACCURACY  # the bounds of 1 may have cut it
    return Field(seed.tolist(), dict(zip(names, right.tolist(), strict=True)), dict(zip(names, exact, strict=True)))


# -- parts ------------------------------------------------------------------------------------------------------------


def false_better(candidates: int) -> list[dict[str, Any]]:
    """How often the evidence for "better" ever reaches 20 for a candidate that is not better."""
    rng, lines = np.random.default_rng(0), []
    for discordance in (0.05, 0.15, 0.30):
        for gain in (0.0, -0.02):
            won = rng.random((candidates, QUESTIONS))
            wins = (won < (discordance + gain) / 2).cumsum(axis=1)
            losses = (won > 1 - (discordance - gain) / 2).cumsum(axis=1)
            ever = (log_e_values(wins, losses) >= log(20)).any(axis=1)
            lines.append({"discordance": discordance, "gain": gain, "claimed": spread(ever)})
    return lines


def racing(races: int) -> Iterator[dict[str, Any]]:
    """Savings, losses and estimates of races over mixes, discordances and budgets."""
    for mix, shares in MIXES.items():
        for discordance in (0.15, 0.30):
            # budget: share of what scoring everything costs
            for alpha, share in ((0.05, None), (0.1, None), (0.1, 0.4)):
                rng, rows = np.random.default_rng(1), []
                budget = None if share is None else int(share * CANDIDATES * QUESTIONS)
                for _ in range(races):
                    field = draw_field(rng, draw_gains(rng, shares), discordance)
                    rows.append(one_race(field, RaceRules(**RULES, budget=budget, alpha=alpha)))
                yield {"mix": mix, "discordance": discordance, "alpha": alpha, "budget": share, **summarise(rows)}


def one_race(field: Field, rules: RaceRules) -> dict[str, float]:
    """Figures of one race with everything answered."""
    order = question_order(len(field.seed), 0)  # the questions are exchangeable already
    state = race(order, field.seed, field.rows, rules)
    gains = field.gains
    dropped = {s.candidate: s.dropped for s in state.standings}
    by_truth = sorted(gains, key=lambda name: -gains[name])
    by_score = sorted(field.rows, key=lambda name: -sum(field.rows[name]))[: rules.keep]
    better = [name for name in gains if gains[name] > 0]
    claimed = e_bh([s.log_better for s in state.standings], 0.05)
    false = [gains[s.candidate] <= 0 for s, said in zip(state.standings, claimed, strict=True) if said]
    found = [estimate(order, field.seed, field.rows[name], rules, name) for name in state.finalists]
    return {
        "times_fewer": len(gains) * len(field.seed) / state.spent,
        "better_dropped_on_evidence": mean(dropped[name] in (Reason.FUTILE, Reason.BEATEN) for name in better),
        "better_dropped_by_budget": mean(dropped[name] is Reason.BUDGET for name in better),
        "top15_in_race": mean(dropped[name] is None for name in by_truth[:15]),
        "all15_in_race": float(all(dropped[name] is None for name in by_truth[:15])),
        "finalists_true_gain": mean(gains[name] for name in state.finalists),
        "finalists_true_gain_full": mean(gains[name] for name in by_score),
        "winner_true_gain": gains[state.finalists[0]],
        "winner_true_gain_full": gains[by_score[0]],
        "bias": mean(e.gain - gains[e.candidate] for e in found),
        "coverage": mean(e.low <= gains[e.candidate] <= e.high for e in found),
        "winner_coverage": mean(e.low <= gains[e.candidate] <= e.high for e in found[:1]),
        "race_score_bias": mean(race_gain(state, field, name) - gains[name] for name in state.finalists),
        "false_among_claimed": mean(false),
    }


def race_gain(state: RaceState, field: Field, name: str) -> float:
    """What a finalist's race score alone would claim."""
    standing = next(s for s in state.standings if s.candidate == name)
    return (standing.wins - standing.losses) / standing.asked


def winners_curse(races: int) -> Iterator[dict[str, Any]]:
    """The winner of 100 by dev score: as measured, and shrunken."""
    kinds = {"all equal": (0.0, 0.0), "normal(-2, 3) points": (-0.02, 0.03), "early mix": None}
    for kind, normal in kinds.items():
        for questions in (100, 500):
            rng, rows = np.random.default_rng(2), []
            for _ in range(races):
                gains = draw_gains(rng, MIXES["early"], 100) if normal is None else rng.normal(*normal, 100)
                rows.append(one_winner(draw_field(rng, gains, 0.3, questions)))
            yield {"truth": kind, "questions": questions, **summarise(rows)}


def one_winner(field: Field) -> dict[str, float]:
    names, rows = list(field.rows), list(field.rows.values())
    picked = intact(field.seed, rows)
    estimates = shrunken_gains(field.seed, [rows[i] for i in picked])
    best = max(range(len(picked)), key=lambda i: estimates[i].naive)
    true, found = field.gains[names[picked[best]]], estimates[best]
    return {
        "naive": found.naive - true,
        "shrunken": found.shrunken - true,
        "coverage": float(found.low <= true <= found.high),
    }


def pairs(races: int) -> Iterator[dict[str, Any]]:
    """Inverted pairs by rule, at the same answers."""
    wide = {"chosen_share": 0.2, "rejected_share": 0.4, "max_pairs": 30, "max_appearances": 5}
    rules = {
        "paper": PairConfig(),
        "confident": PairConfig(rule="confident"),
        "wide shares": PairConfig(**wide),
        "wide shares, confident": PairConfig(**wide, rule="confident"),
    }
    truths = {"early mix": None, "normal(0, 3) points": 0.03, "normal(0, 1) point": 0.01}
    for truth, deviation in truths.items():
        for questions in (100, 400):
            rng = np.random.default_rng(3)
            rows: dict[str, list[dict[str, float]]] = {rule: [] for rule in rules}
            for _ in range(races):
                gains = draw_gains(rng, MIXES["early"]) if deviation is None else rng.normal(0.0, deviation, CANDIDATES)
                field = draw_field(rng, gains, 0.3, questions)
                for rule, config in rules.items():
                    found = pair("", candidates(field.rows), [], config, field.rows)
                    rows[rule].append(pair_figures(found, field))
            for rule in rules:
                yield {"truth": truth, "questions": questions, "rule": rule, **summarise(rows[rule])}


def pair_figures(found: Sequence[PreferencePair], field: Field) -> dict[str, float]:
    wrong = [field.gains[p.chosen_id] <= field.gains[p.rejected_id] for p in found]
    estimated = inverted_share(found, field.rows)
    return {"pairs": len(found), "inverted": mean(wrong), "estimated": float("nan") if estimated is None else estimated}


def candidates(rows: Mapping[str, Sequence[bool]]) -> list[ScoredCandidate]:
    return [
        ScoredCandidate(name, 1, i, name, name, ExecutionStatus.OK, sum(row), len(row), 1.0, 1)
        for i, (name, row) in enumerate(rows.items())
    ]


def resolution() -> list[dict[str, Any]]:
    """What the exact paired test can resolve."""
    return [
        {"questions": n, **{f"discordance {d}": rounded(resolvable_difference(n, d)) for d in (0.05, 0.15, 0.3)}}
        for n in (100, 250, 500, 1000, 1319, 4400)
    ]


# -- a recorded run ---------------------------------------------------------------------------------------------------


def replay(directory: Path, orders: int) -> dict[str, Any]:
    """Race the recorded dev answers of each iteration in random orders of the questions.

    The truth is not known here: candidates are judged by their score on all recorded questions.
    """
    store = Store(directory / "store.sqlite", read_only=True)
    try:
        numbers = sorted({c.iteration for c in store.scored()})
        iterations = {i: (store.seed_verdicts(block_of(store, i)), recorded(store, i)) for i in numbers}
    finally:
        store.close()
    lines = [
        {"iteration": i, "candidates": len(rows), "questions": len(seed), **replay_iteration(seed, rows, orders)}
        for i, (seed, rows) in iterations.items()
        if len(rows) > 1
    ]
    return {"orders": orders, "iterations": show(f"replay of {directory}", lines)}


def beside(full: Path, raced: Path) -> dict[str, Any]:
    """The first iteration of two runs that differ in racing alone: what the race kept, and what evaluation took."""
    whole, fast = (Store(path / "store.sqlite", read_only=True) for path in (full, raced))
    try:
        every, kept = whole.scored(1), fast.scored(1)
        if [c.completion for c in every] != [c.completion for c in kept]:
            raise SystemExit("the two runs did not draw the same programs in iteration 1")
        answered = recorded(whole, 1)
        rows = {c.index: answered[c.id] for c in every if c.id in answered}
        best = [c.index for c in by_score(every)[:5]]
        picked = [c.index for c in by_gain(kept)[:5]]
        seconds = [
            sum(store.seconds()[i].get(name, 0.0) for i in store.seconds() if i for name in ("evaluate", "race"))
            for store in (whole, fast)
        ]
        spent = [store.evaluations("generated") for store in (whole, fast)]
        counts = [discordant(rows[p], rows[b]) for p, b in zip(picked, best, strict=True)]
        wins, losses, questions = (sum(column) for column in zip(*counts, strict=True))
        return {
            "top5_without": [sum(rows[i]) for i in best],
            "top5_with": [sum(rows[i]) for i in picked],
            "of": len(next(iter(rows.values()))),
            "in_both": len(set(best) & set(picked)),
            "difference": [(wins - losses) / questions, *paired_interval(wins, losses, questions)],
            "evaluation_seconds": {"without": seconds[0], "with": seconds[1], "ratio": seconds[0] / seconds[1]},
            "question_evaluations": {"without": spent[0], "with": spent[1], "ratio": spent[0] / spent[1]},
        }
    finally:
        whole.close()
        fast.close()


def block_of(store: Store, iteration: int) -> int:
    """The block of dev questions that an iteration asks: its own, or the one for all."""
    return iteration if store.seed_verdicts(iteration) else 0


def recorded(store: Store, iteration: int) -> dict[str, list[bool]]:
    """Rows of the iteration's ranked candidates that answered all questions of its block, finals apart."""
    ranked = {c.id for c in store.scored(iteration) if c.correct is not None and not c.duplicate_of and not c.refused}
    rows = store.verdicts(iteration, "generated", block_of(store, iteration))
    return {name: [bool(v) for v in row] for name, row in rows.items() if name in ranked and None not in row}


def replay_iteration(seed: list[bool], rows: dict[str, list[bool]], orders: int) -> dict[str, Any]:
    score = {name: sum(row) for name, row in rows.items()}
    best = sorted(rows, key=lambda name: -score[name])
    rules = RaceRules(block=8, held_out=len(seed) // 5, keep=max(1, min(15, len(rows) // 4)))
    figures = []
    for number in range(orders):
        state = race(question_order(len(seed), number), seed, rows, rules)
        gone = {s.candidate for s in state.standings if s.dropped}
        better = [name for name in rows if score[name] > sum(seed)]
        figures.append({
            "times_fewer": len(rows) * len(seed) / state.spent,
            "better_dropped": mean(name in gone for name in better),
            "top5_in_race": mean(name not in gone for name in best[:5]),
            "top5_in_finalists": mean(name in state.finalists for name in best[:5]),
            "best_minus_winner": (score[best[0]] - score[state.finalists[0]]) / len(seed),
        })  # fmt: skip
    ours = candidates(rows)
    for rule in ("paper", "confident"):
        found = pair("", ours, [], PairConfig(rule=rule), rows)
        figures[0] |= {f"pairs_{rule}": len(found)}
        share = inverted_share(found, rows)
        figures[0] |= {} if share is None else {f"inverted_{rule}_estimated": share}
    return summarise(figures)


# -- figures ----------------------------------------------------------------------------------------------------------


def mean(values: Any) -> float:
    """Mean, not-a-number for none."""
    listed = [float(v) for v in values]
    return sum(listed) / len(listed) if listed else float("nan")


def spread(values: Any) -> list[float | None]:
    """[mean, standard error] over the numbers among the values."""
    listed = np.array([v for v in map(float, values) if v == v])
    if not len(listed):
        return [None, None]
    error = listed.std(ddof=1) / sqrt(len(listed)) if len(listed) > 1 else 0.0
    return [round(float(listed.mean()), 4), round(float(error), 4)]


def summarise(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """[mean, standard error] per figure."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: spread(row[name] for row in rows if name in row) for name in names}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def show(title: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print the lines as they will be recorded."""
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(f"{key} {text(value)}" for key, value in line.items()), flush=True)
    return lines


def text(value: Any) -> str:
    if isinstance(value, list):
        return "-" if value[0] is None else f"{value[0]:.3f}±{value[1]:.3f}"
    return str(value)


if __name__ == "__main__":
    main()
