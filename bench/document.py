"""The part of docs/benchmarks.md that is written from a run, and its plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .plots import Bars, draw
from .report import heading, number

__all__ = ["BEGIN", "END", "insert", "publish"]

BEGIN = "<!-- bench: written by python -m bench --document -->\n"
END = "<!-- /bench -->"

# Scenario → server → figure → median; server → its title.
Medians = Mapping[str, Mapping[str, Mapping[str, float]]]
Titles = Mapping[str, str]


def publish(result: Mapping[str, Any], titles: Titles, document: Path) -> None:
    """Write the tables into the document, and the plots into the folder `plots` beside it."""
    folder = document.parent / "plots"
    folder.mkdir(exist_ok=True)
    plots = _plots(result["medians"], titles)
    for name, bars in plots.items():
        (folder / f"{name}.svg").write_text(draw(bars))
    insert(document, "\n".join([*_conditions(result), *_targets(result), *_images(plots), *_tables(result, titles)]))


def insert(document: Path, text: str) -> None:
    """Replace what stands between the markers. Raises ValueError if they are not there."""
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no place for the figures: {BEGIN.strip()} … {END}")
    document.write_text(before + begin + text + end + after)


# The text


def _conditions(result: Mapping[str, Any]) -> list[str]:
    machine, plan = result["machine"], result["plan"]
    packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    lines = [
        f"`{' '.join(result['command'])}`, {machine['when'][:10]}: {machine['cpus']} CPUs of {machine['cpu']}, Linux "
        f"{machine['kernel']}, Python {machine['python']}. Medians of {plan['repeats']} repetitions.",
        "",
        f"- the hub's environment, which is the tutorial's too: {packages}",
    ]
    for name, versions in result["peers"].items():
        lines.append(f"- {name}: " + ", ".join(f"{package} {version}" for package, version in versions.items()))
    lines += [f"- left out: {reason.splitlines()[0]}" for reason in result["left_out"]]
    return [*lines, ""]


def _targets(result: Mapping[str, Any]) -> list[str]:
    lines = ["| target | measured | required | |", "|---|---:|---:|---|"]
    for verdict in result["targets"]:
        sign = {">=": "at least", "<=": "at most"}[verdict["comparison"]]
        mark = "reached" if verdict["reached"] else "**missed**"
        lines.append(f"| {verdict['text']} | {verdict['measured']:.2f} | {sign} {verdict['bound']:g} | {mark} |")
    return [*lines, ""]


def _images(plots: Mapping[str, Bars]) -> list[str]:
    return [line for name, bars in plots.items() for line in (f"![{bars.title}](plots/{name}.svg)", "")]


def _tables(result: Mapping[str, Any], titles: Titles) -> list[str]:
    lines = []
    for scenario, servers in result["medians"].items():
        figures = list(next(iter(servers.values())))
        lines += [f"`{scenario}`:", "", f"| | {' | '.join(map(heading, figures))} |", f"|---{'|---:' * len(figures)}|"]
        for server, of in servers.items():
            lines.append(f"| {titles[server]} | {' | '.join(number(of[figure]) for figure in figures)} |")
        lines.append("")
    return lines


# The plots


def _plots(medians: Medians, titles: Titles) -> dict[str, Bars]:
    """Of what was measured; name of the file → plot."""
    one, many, idle = (medians.get(name, {}) for name in ("window-1", "window-32", "connections"))
    deliveries = {
        titles[name]: tuple(of.get(name, {}).get("deliveries_per_cpu_second") for of in (one, many))
        for name in {**one, **many}
    }
    plots = {
        "deliveries": Bars(
            title="Deliveries per CPU-second of the server (logarithmic)",
            series=("1 message outstanding", "32 outstanding"),
            rows=deliveries,
            logarithmic=True,
        ),
        "memory": Bars(title="Memory of an idle connection, KiB", rows=_of(idle, "rss_kib_per_connection", titles)),
        "accept": Bars(title="CPU to accept a connection, ms", rows=_of(idle, "accept_cpu_ms", titles)),
    }
    return {name: bars for name, bars in plots.items() if bars.rows}


def _of(servers: Mapping[str, Mapping[str, float]], figure: str, titles: Titles) -> dict[str, tuple[float | None, ...]]:
    return {titles[name]: (of[figure],) for name, of in servers.items()}
