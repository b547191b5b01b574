"""The solver-verifier gap of a run, for people: over time and per verifier, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from selfdev.gap_records import Gap, Gaps, Quantity, is_current, whole


def gap_text(record: Mapping[str, Any]) -> Text:
    """One iteration in a few lines; rows that earlier versions wrote too."""
    if not record:
        return Text("solver-verifier gap: fewer than two samples")
    if "verifiers" not in record:
        return _old_text(record)
    lines = []
    if is_current(record):
        gain = Quantity(*record["gain"])
        if gain.value is not None:
            lines.append(
                f"gain over the seed of a program that ran: {gain.value:+z.3f}{_interval(gain, '.3f', ' ({})')}"
            )
    for name, found in record["verifiers"].items():
        score = _difference(found, "verifier_score", "solver_score", "score_gap", ".3f")
        nll = _difference(found, "solver_nll", "verifier_nll", "nll_gap", ".1f", " nats")
        chosen = f"best of {found['n']} by {name}"
        lines.append(f"solver-verifier gap, {chosen}: dev score {score}; NLL {nll}")
    for point in record.get("inside", []):
        for name, found in point["verifiers"].items():
            nll = _difference(found, "solver_nll", "verifier_nll", "nll_gap", ".1f", " nats")
            lines.append(f"inside the DPO stage, at {time_text(point['time'])}, by {name}: NLL {nll}")
    return Text("\n".join(lines))


def _difference(found: Mapping[str, Any], first: str, second: str, gap: str, form: str, unit: str = "") -> str:
    """`a - b = +c (low to high)`."""
    a, b, c = (Quantity(*found[name]) for name in (first, second, gap))
    if a.value is None or b.value is None or c.value is None:
        return "not told"
    return f"{a.value:{form}} - {b.value:{form}} = {c.value:+z{form}}{unit}{_interval(c, form, ' ({})')}"


def time_text(time: float) -> str:
    """A time on the curve: an iteration, or a moment inside its DPO stage to two decimals."""
    return f"{time:.2f}".rstrip("0").rstrip(".")


def _interval(q: Quantity, form: str, frame: str = "{}") -> str:
    return "" if q.low is None or q.high is None else frame.format(f"{q.low:+z{form}} to {q.high:+z{form}}")


def _old_text(gap: Mapping[str, float]) -> Text:
    return Text(
        f"solver-verifier gap: dev score {gap['verifier_score']:.3f} (best of {gap['n']} of {gap['samples']} by own "
        f"likelihood) - "
        f"{gap['solver_score']:.3f} (mean) = {gap['score_gap']:+.3f}; NLL {gap['solver_nll']:.1f} - "
        f"{gap['verifier_nll']:.1f} = {gap['nll_gap']:+.1f} nats; per token {gap['solver_nll_per_token']:.3f}, "
        f"{gap['verifier_nll_per_token']:.3f}"
    )


def gap_tables(gaps: Gaps, gains: Mapping[int, Quantity], confidence: float) -> list[Table]:
    """Uncertainty, programs beside the seed, and what the verifiers add; empty where nothing was measured.

    Points inside DPO stages have a row of their own in the first and are not in the others: there are no programs.
    """
    if not any(gaps.values()):
        return []
    level = f"{100 * confidence:g} %"
    every = [gap for found in gaps.values() for gap in found.values()]
    nats = _table("solver-verifier gap: uncertainty, nats", ("verifier", "U_s", "U_v", "G", level, "G/token", "tokens"))
    seed = _table("programs beside the seed", ("ran", "gain", level, "better", "pass@N", level, "best@N"))
    judged = any("brier" in gap.quantities for gap in every)
    heads = ("verifier", "gap", level, "rel.", "AUC", level, *(("Brier",) if judged else ()))
    judge = _table("solver-verifier gap: dev score", heads)
    iterations = whole(gaps)
    for time, found in gaps.items():
        for name, gap in found.items():
            q, where = gap.quantities, (time_text(time), name)
            length = f"{_cell(q['solver_tokens'], '.0f')}/{_cell(q['verifier_tokens'], '.0f')}"
            nats.add_row(
                *where, _cell(q["solver_nll"], ".1f"), _cell(q["verifier_nll"], ".1f"), _cell(q["nll_gap"], "+.1f"),
                _interval(q["nll_gap"], ".1f") or "-", _cell(q["nll_gap_per_token"], "+.3f"), length,
            )  # fmt: skip
            if time not in iterations:
                continue
            brier = [_cell(q.get("brier", Quantity(None)), ".2f")] if judged else []
            judge.add_row(
                *where, _cell(q["score_gap"], "+.2f"), _interval(q["score_gap"], ".2f") or "-",
                _cell(q["relative_gap"], "+.2f"), _cell(q["auc"], ".2f"), _plain_interval(q["auc"]), *brier,
            )  # fmt: skip
        if found and time in iterations:
            gap, gain = next(iter(found.values())), gains.get(int(time), Quantity(None))
            q = gap.quantities
            seed.add_row(
                time_text(time), _cell(q["solver_valid"], ".2f"), _cell(gain, "+.3f"), _interval(gain, ".3f") or "-",
                _cell(q["better"], ".2f"), _cell(q["pass_at_n"], ".2f"), _plain_interval(q["pass_at_n"]),
                _cell(q["best_at_n"], "+.3f"),
            )  # fmt: skip
    programs = [gap for gap in every if gap.samples]
    questions, n = _listed(gap.questions for gap in programs), _listed(gap.n for gap in programs)
    between = (
        ". Between whole numbers: inside a DPO stage, by its learning rates" if len(gaps) > len(iterations) else ""
    )
    _caption(nats, f"NLL at temperature 1 of {_drawn(every)}; U_v: lowest per token of N, above the threshold{between}")
    _caption(
        seed,
        f"gain: of a program that ran, on {questions} questions that all of the iteration answered (each iteration its "
        f"own, unless dev.resample is fixed). better: share of all drawn that the sign test calls so (p < 0.05: up "
        f"to 5 % of equals by chance). N: {n}, of all drawn; pass@N, best@N: maxima on these questions, biased "
        f"upward",
    )
    _caption(
        judge,
        f"gap: dev score of the verifier's best of {n} over that of a program, same questions; rel.: to 1 - J(f). "
        "AUC: for better",
    )
    return [nats, seed, judge]


def _drawn(gaps: Sequence[Gap]) -> str:
    """Which samples the uncertainty is of."""
    heats = dict.fromkeys(gap.temperature for gap in gaps if gap.temperature is not None)
    said = ", ".join(f"{heat:.3g}" for heat in heats) or "?"
    many = "" if len(heats) < 2 else "s (colder: lower NLL without learning)"
    return f"{_listed(gap.measured for gap in gaps if gap.measured)} samples drawn at temperature{many} {said}"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="left" if column == "verifier" else "right", no_wrap=True)
    return table


def _caption(table: Table, text: str) -> None:
    table.caption, table.caption_justify = Text(text), "left"


def _cell(q: Quantity, form: str) -> str:
    return "-" if q.value is None else f"{q.value:{form}}"


def _plain_interval(q: Quantity) -> str:
    return "-" if q.low is None or q.high is None else f"{q.low:.2f} to {q.high:.2f}"
