"""How long requests took, drawn: as lines of text that any terminal can show, and as a picture.

Decides what is drawn, not where it goes.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path

Latencies = Mapping[str, Sequence[float]]
"""In milliseconds, above 0, by the name of what was measured; none is empty."""

MOST_ROWS = 16
LEAST_BAR, MOST_BAR = 6, 30
SHARE_COLUMNS = 6  # " 100%" and a blank before the next bar
EXTREME = 0.005
"""This share at each end of a series needs no rows of its own."""
E12 = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
"""Source: IEC 60063, preferred number series for resistors and capacitors."""
EIGHTHS = "▏▎▍▌▋▊▉█"
DPI = 110


def histogram(latencies: Latencies, *, columns: int, ascii_only: bool = False) -> list[str]:
    """A row for each range of latencies, with a bar for each series: the share of its requests in that range.

    Args:
        latencies: The series lie side by side, or one below the other where they would be too narrow.
        columns: No line is longer, except that numbers are never cut off: they need 25 at most.
        ascii_only: Draw with ``#``.
    """
    edges = _edges(latencies)
    inner = [f"{low:g} - {high:g}" for low, high in itertools.pairwise(edges)]
    labels = [f"< {edges[0]:g}", *inner, f"> {edges[-1]:g}"]
    margin = max(map(len, labels))
    bar = min(MOST_BAR, (columns - margin - 1) // len(latencies) - SHARE_COLUMNS)
    if bar < LEAST_BAR and len(latencies) > 1:
        return [
            line
            for name, values in latencies.items()
            for line in histogram({name: values}, columns=columns, ascii_only=ascii_only)
        ]
    bar = max(bar, 0)
    shares = [_shares(values, edges) for values in latencies.values()]
    most = max(map(max, shares))
    heading = "".join(f" {name[: bar + 5]:<{bar + 5}}" for name in latencies)
    lines = [f"{'ms':>{margin}}{heading}".rstrip()]
    for label, *row in zip(labels, *shares, strict=True):
        if label not in inner and not any(row):
            continue
        cells = "".join(f" {_bar(share / most, bar, ascii_only=ascii_only)}{_percent(share):>5}" for share in row)
        lines.append(f"{label:>{margin}}{cells}".rstrip())
    return lines


def draw(latencies: Latencies, title: str, path: Path) -> None:
    """Writes a PNG: which share of the requests took no longer than so many milliseconds.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    # Not pyplot: it would look for a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(6.4, 3.6), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for name, values in latencies.items():
        ordered = sorted(values)
        percents = [100 * rank / len(ordered) for rank in range(1, len(ordered) + 1)]
        axes.step(ordered, percents, where="post", label=name)
    for percent in (50, 99):
        axes.axhline(percent, color="0.8", linewidth=0.8, zorder=0)
        axes.text(1.01, percent, f"p{percent}", transform=axes.get_yaxis_transform(), va="center", color="0.4")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latency of a request, ms")
    axes.set_ylabel("requests that took no longer, %")
    axes.set_ylim(0, 100)
    axes.set_title(title, fontsize="medium")
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, format="png")


def _edges(latencies: Latencies) -> list[float]:
    """Preferred numbers around all but the least and the greatest latencies, as fine as there are rows for."""
    least = min(_at(values, EXTREME) for values in latencies.values())
    greatest = max(_at(values, 1 - EXTREME) for values in latencies.values())
    # One decade more at each end: a logarithm may be rounded.
    decades = range(math.floor(math.log10(least)) - 1, math.floor(math.log10(greatest)) + 3)
    for every in (1, 2, 4, 12):
        numbers = [float(f"{number}e{decade}") for decade in decades for number in E12[::every]]
        first = bisect_right(numbers, least) - 1
        last = bisect_right(numbers, greatest)
        if last - first <= MOST_ROWS:
            break
    return numbers[first : last + 1]


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    """Those below all edges, between each two, and above all."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_right(edges, value)] += 1
    return [count / len(values) for count in counts]


def _bar(length: float, columns: int, *, ascii_only: bool) -> str:
    """``length``, 0 to 1, of so many columns, filled up with blanks."""
    if ascii_only:
        return f"{'#' * round(length * columns):<{columns}}"
    whole, rest = divmod(round(length * columns * 8), 8)
    return f"{'█' * whole + (EIGHTHS[rest - 1] if rest else ''):<{columns}}"


def _percent(share: float) -> str:
    """Nothing where there is nothing; ``<1%`` rather than ``0%`` where there is little."""
    if not share:
        return ""
    return f"{share:.0%}" if share >= 0.005 else "<1%"
