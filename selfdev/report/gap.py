"""The solver-verifier gap of a run, for people: per iteration and verifier, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from selfdev.gap_records import Gap, Quantity

Gaps = Mapping[int, Mapping[str, Gap]]  # iteration -> verifier -> measurement


def gap_text(record: Mapping[str, Any]) -> Text:
    """One iteration in a few lines; rows that earlier versions wrote too."""
    if not record:
        return Text("solver-verifier gap: fewer than two samples")
    if "verifiers" not in record:
        return _old_text(record)
    lines = []
    for name, found in record["verifiers"].items():
        score = _difference(found, "verifier_score", "solver_score", "score_gap", ".3f")
        nll = _difference(found, "solver_nll", "verifier_nll", "nll_gap", ".1f", " nats")
        chosen = f"best of {found['n']} by {name}"
        lines.append(f"solver-verifier gap, {chosen}: dev score {score}; NLL {nll}")
    return Text("\n".join(lines))


def _difference(found: Mapping[str, Any], first: str, second: str, gap: str, form: str, unit: str = "") -> str:
    """`a - b = +c (low to high)`."""
    a, b, c = (Quantity(*found[name]) for name in (first, second, gap))
    if a.value is None or b.value is None or c.value is None:
        return "not told"
    return f"{a.value:{form}} - {b.value:{form}} = {c.value:+z{form}}{unit}{_interval(c, form, ' ({})')}"


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


def gap_tables(gaps: Gaps, confidence: float) -> list[Table]:
    """Uncertainty, utility and the judgement itself; empty where nothing was measured."""
    if not any(gaps.values()):
        return []
    level = f"{100 * confidence:g} %"
    nats = _table("solver-verifier gap: uncertainty, nats", ("U_s", "U_v", "G", level, "G/token", "tokens"))
    score = _table("solver-verifier gap: dev score", ("J(f)", "J(f[w])", "gap", level, "relative"))
    judge = _table("verifiers, for better than the seed", ("AUC", level, "Brier", "better", "pass@N", "best@N"))
    for iteration, found in gaps.items():
        for name, gap in found.items():
            q, where = gap.quantities, (str(iteration), name)
            length = f"{_cell(q['solver_tokens'], '.0f')}/{_cell(q['verifier_tokens'], '.0f')}"
            nats.add_row(
                *where, _cell(q["solver_nll"], ".1f"), _cell(q["verifier_nll"], ".1f"), _cell(q["nll_gap"], "+.1f"),
                _interval(q["nll_gap"], ".1f"), _cell(q["nll_gap_per_token"], "+.3f"), length,
            )  # fmt: skip
            score.add_row(
                *where, _cell(q["solver_score"], ".3f"), _cell(q["verifier_score"], ".3f"),
                _cell(q["score_gap"], "+.3f"), _interval(q["score_gap"], ".3f"), _cell(q["relative_gap"], "+.3f"),
            )  # fmt: skip
            judge.add_row(
                *where, _cell(q["auc"], ".2f"), _plain_interval(q["auc"]), _cell(q["brier"], ".2f"),
                _cell(q["better"], ".2f"), _cell(q["pass_at_n"], ".2f"), _cell(q["best_at_n"], ".3f"),
            )  # fmt: skip
    _caption(nats, "NLL at temperature 1, summed over a sample; U_v: of the lowest per token of N, above the threshold")
    _caption(score, "J(f[w]): the verifier's best of N; programs without a dev score apart. relative: to 1 - J(f)")
    _caption(judge, f"better: share of programs. N: {_sizes(gaps)}. AUC 0.5 is chance")
    return [nats, score, judge]


def _sizes(gaps: Gaps) -> str:
    return ", ".join(map(str, sorted({gap.n for found in gaps.values() for gap in found.values()})))


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("verifier", no_wrap=True)
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)  # text: J(f[w]) is no markup
    return table


def _caption(table: Table, text: str) -> None:
    table.caption, table.caption_justify = Text(text), "left"


def _cell(q: Quantity, form: str) -> str:
    return "-" if q.value is None else f"{q.value:{form}}"


def _plain_interval(q: Quantity) -> str:
    return "" if q.low is None or q.high is None else f"{q.low:.2f} to {q.high:.2f}"
