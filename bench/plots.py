"""Bar charts as SVG, with a template and no library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["Bars", "draw"]

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
COLOURS = ("#7f9fbf", "#1f4e79")
WIDTH, LEFT, RIGHT, TOP = 860, 300, 90, 44
BAR, GAP = 14, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Horizontal bars; a row has a value for each of the series, None where nothing was measured."""

    title: str
    rows: Mapping[str, tuple[float | None, ...]]
    series: tuple[str, ...] = ("",)
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class _Bar:
    y: float
    width: float
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    middle: float
    bars: tuple[_Bar, ...]


def draw(bars: Bars) -> str:
    """The text of an SVG file."""
    height = TOP + len(bars.rows) * (BAR * len(bars.series) + GAP) + GAP
    legend = [(LEFT + 190 * at, COLOURS[at], name) for at, name in enumerate(bars.series) if name]
    return TEMPLATES.get_template("bars.svg.j2").render(
        title=bars.title, rows=list(_rows(bars)), legend=legend, width=WIDTH, height=height, left=LEFT, bar=BAR
    )


def _rows(bars: Bars) -> Iterator[_Row]:
    values = [value for row in bars.rows.values() for value in row if value is not None and value > 0]
    # A logarithmic scale begins at the power of ten below the smallest value.
    base = 10.0 ** math.floor(math.log10(min(values))) if bars.logarithmic and values else 0.0
    room, longest, y = WIDTH - LEFT - RIGHT, _length(max(values, default=1.0), base), float(TOP)
    for label, row in bars.rows.items():
        drawn = tuple(
            _Bar(y + BAR * at, room * _length(value, base) / longest, _text(value), COLOURS[at])
            for at, value in enumerate(row)
            if value is not None
        )
        yield _Row(label, y + BAR * len(row) / 2, drawn)
        y += BAR * len(row) + GAP


def _length(value: float, base: float) -> float:
    """In units of the scale; a bar is never shorter than nothing."""
    if not base:
        return max(value, 0.0)
    # The smallest value would have no bar if it is the base itself.
    return max(math.log10(value / base) + 0.05, 0.0) if value > 0 else 0.0


def _text(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
