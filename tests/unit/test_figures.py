"""The figures of the documentation, drawn from the sample of a result in tests/data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import figures

DATA = Path(__file__).resolve().parents[1] / "data" / "benchmarks"
NAMES = ("batching-throughput.svg", "batching-change.svg")


@pytest.fixture
def found() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / "batching.json").read_text(encoding="utf-8"))
    return content


def drawn(values: Any) -> list[float]:
    """What a line shows along one axis."""
    return list(values)


def test_the_command_writes_small_svgs_and_says_where(root: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "benchmarks", "plot", "--results", str(DATA), "--figures", str(tmp_path / "new")]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / "new" / name) for name in NAMES]
    for name in NAMES:
        content = (tmp_path / "new" / name).read_bytes()
        assert ET.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
        assert 10_000 < len(content) < 200_000


def test_the_same_results_give_the_same_files(tmp_path: Path) -> None:
    one, other = figures.write(DATA, tmp_path / "one"), figures.write(DATA, tmp_path / "other")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_the_throughput_of_each_size_and_the_adaptive_one(found: dict[str, Any]) -> None:
    figure = figures.throughput(found)
    assert len(figure.axes) == len(found["cases"]) == 3
    for case, axes in zip(found["cases"], figure.axes, strict=True):
        fixed, adaptive = axes.lines
        assert drawn(fixed.get_xdata()) == [int(size) for size in case["sweep_rps"]]
        assert drawn(fixed.get_ydata()) == list(case["sweep_rps"].values())
        assert set(drawn(adaptive.get_ydata())) == {case["adaptive_rps"]}
        assert axes.get_xlabel() == "samples in a batch, at most"
    assert figure.axes[0].get_ylabel() == "requests/s"
    assert figure.axes[0].get_title() == "10 ms + n × 0.5 ms, objective 100 ms"


def test_the_latencies_around_the_change(found: dict[str, Any]) -> None:
    figure = figures.change(found)
    for case, axes in zip(found["cases"], figure.axes, strict=True):
        p99, p50, objective, begin = axes.lines
        assert drawn(p99.get_ydata()) == case["change"]["timeline"]["p99_ms"]
        assert drawn(p50.get_ydata()) == case["change"]["timeline"]["p50_ms"]
        assert set(drawn(objective.get_ydata())) == {case["objective_ms"]}
        assert set(drawn(begin.get_xdata())) == {0}
        assert axes.get_yscale() == "log"
    assert figure.axes[0].get_ylabel() == "latency, ms"


def test_a_figure_says_where_its_numbers_come_from(found: dict[str, Any]) -> None:
    said = figures.throughput(found).get_supxlabel()
    for part in (found["command"], found["date"], "2 cores", "0.2% of them taken by other machines"):
        assert part in said


def test_the_figures_of_the_documentation_are_those_of_the_committed_result() -> None:
    """``python -m benchmarks plot`` makes them so."""
    date = json.loads((figures.RESULTS / "batching.json").read_text(encoding="utf-8"))["date"]
    for name in NAMES:
        assert date in (figures.FIGURES / name).read_text(encoding="utf-8"), f"{name} is of another run"
