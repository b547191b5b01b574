"""Line charts as SVG text, with intervals as bars. Pure; for a few short curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 260  # of one panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 36
LABELS = 10  # below the horizontal axis, at most: beyond, only whole numbers get one
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#7b3fa0", "#8c564b", "#666666")

Place = Callable[[float, float], tuple[float, float]]  # (x, y) of the data -> pixels


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: (x, y, low, high) per point; low and high None: no interval."""

    name: str
    points: Sequence[tuple[float, float, float | None, float | None]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart."""

    title: str
    x_label: str
    series: Sequence[Series]


def svg(panels: Sequence[Panel], columns: int = 2) -> str:
    """The panels in rows; those without a point stay empty."""
    rows = -(-len(panels) // columns)
    size = f'width="{WIDTH * min(columns, len(panels))}" height="{HEIGHT * rows}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for i, panel in enumerate(panels):
        place = f"translate({WIDTH * (i % columns)} {HEIGHT * (i // columns)})"
        parts += [f'<g transform="{place}">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    points = [point for series in panel.series for point in series.points]
    out = [_text(LEFT, 16, panel.title, weight="bold"), _text((LEFT + WIDTH) / 2, HEIGHT - 6, panel.x_label, "middle")]
    if not points:
        return out
    xs = sorted({x for x, *_ in points})
    ys = [y for _, *values in points for y in values if y is not None]
    (x0, x1), (y0, y1) = _padded(xs), _padded(ys)

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    out.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="black"/>')
    labels = xs if len(xs) <= LABELS else [x for x in xs if x == int(x)]
    out += [_text(at(x, y0)[0], HEIGHT - BOTTOM + 14, f"{x:.3g}", "middle") for x in labels]
    for y in (y0 + (y1 - y0) * share for share in (0.05, 0.5, 0.95)):
        out.append(_text(LEFT - 5, at(x0, y)[1] + 4, f"{y:.3g}", "end"))
    for i, series in enumerate(panel.series):
        colour = COLOURS[i % len(COLOURS)]
        out += _curve(series, colour, at)
        out.append(_text(WIDTH - RIGHT, TOP + 4 + 13 * i, series.name, "end", colour))
    return out


def _curve(series: Series, colour: str, at: Place) -> list[str]:
    places = [at(x, y) for x, y, *_ in series.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    out = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for (x, _, low, high), (left, top) in zip(series.points, places, strict=True):
        out.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour}"/>')
        if low is not None and high is not None:
            bottom, ceiling = at(x, low)[1], at(x, high)[1]
            out.append(f'<path d="M{left:.1f} {bottom:.1f}V{ceiling:.1f}" stroke="{colour}" opacity="0.6"/>')
    return out


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "black", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
