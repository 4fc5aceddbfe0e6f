"""Draws the figures of docs/explanation from the results that are in ``benchmarks/results``.

The same results give the same files, with the same matplotlib.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import scaling_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "explanation" / "figures"
STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "hpcserve",
}
ONE, OTHER, LIMIT = "tab:blue", "tab:orange", "0.45"


def write(results: Path, figures: Path) -> list[Path]:
    """Writes all figures of the results in a directory into another one; returns their paths.

    Those of a benchmark whose result is not there are left out.
    """
    import matplotlib as mpl

    figures.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(STYLE):
        for source, name, draw in DRAWN:
            if not (results / source).exists():
                continue
            found = json.loads((results / source).read_text(encoding="utf-8"))
            # The date of the result, not of the drawing.
            draw(found).savefig(figures / name, metadata={"Date": None, "Description": _origin(found)})
            written.append(figures / name)
    return written


def throughput(found: dict[str, Any]) -> Figure:
    """For each model, the requests a second of fixed batch sizes, and of the size that a replica finds by itself."""
    figure, panels = _panels(found)
    for case, axes in panels:
        sizes = [int(size) for size in case["sweep_rps"]]
        axes.plot(sizes, list(case["sweep_rps"].values()), "o-", color=ONE, markersize=3.5, label="fixed size")
        axes.axhline(case["adaptive_rps"], color=OTHER, label="adaptive")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(0, 1.08 * max(case["adaptive_rps"], *case["sweep_rps"].values()))
        axes.set_xlabel("samples in a batch, at most")
    _finish(figure, "requests/s")
    return figure


def change(found: dict[str, Any]) -> Figure:
    """For each model, the latency of the requests before and after it becomes twice as slow."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, panels = _panels(found)
    for case, axes in panels:
        timeline = case["change"]["timeline"]
        axes.step(timeline["from_s"], timeline["p99_ms"], where="post", color=OTHER, label="p99 of half a second")
        axes.step(timeline["from_s"], timeline["p50_ms"], where="post", color=ONE, label="p50")
        axes.axhline(case["objective_ms"], color=LIMIT, linestyle="--", linewidth=1, label="objective")
        axes.axvline(0, color=LIMIT, linestyle=":", linewidth=1)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("seconds since the change")
    _finish(figure, "latency, ms")
    return figure


def _panels(found: dict[str, Any]) -> tuple[Figure, Iterator[tuple[dict[str, Any], Axes]]]:
    """A figure with a panel for each model, side by side, and below them where the numbers come from."""
    # Not pyplot: it would look for a display.
    from matplotlib.figure import Figure

    cases = found["cases"]
    figure = Figure(figsize=(3.1 * len(cases), 3.4), layout="constrained")
    panels = list(figure.subplots(1, len(cases), squeeze=False)[0])
    for case, axes in zip(cases, panels, strict=True):
        model = case["model_ms"]
        axes.set_title(
            f"{model['fixed_ms']:g} ms + n × {model['sample_ms']:g} ms, objective {case['objective_ms']:g} ms"
        )
    figure.supxlabel(_origin(found), fontsize="x-small", color=LIMIT)
    return figure, zip(cases, panels, strict=True)


def _origin(found: dict[str, Any]) -> str:
    machine = found["machine"]
    stolen = f"{machine['stolen']:.1%} of them taken by other machines"
    return f"{found['command']}; {found['date']}, {machine['cpus']} cores, {stolen}"


def _finish(figure: Figure, unit: str) -> None:
    first = figure.axes[0]
    first.set_ylabel(unit)
    figure.legend(*first.get_legend_handles_labels(), frameon=False, loc="outside upper left", ncols=3)


DRAWN = (
    ("batching.json", "batching-throughput.svg", throughput),
    ("batching.json", "batching-change.svg", change),
    ("scaling.json", "scaling-day.svg", scaling_figure.day),
)
"""From which result, to which file, and by what."""
