from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.cli.demo_picture import FILE, picture
from hpcserve.cli.latency_plot import draw, histogram

LATENCIES = {
    "batching on": [10.5] * 60 + [12.5] * 30 + [16.0] * 10,
    "batching off": [16.0] * 20 + [20.0] * 79 + [300.0],
}
PNG = b"\x89PNG\r\n\x1a\n"
some_latencies = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50)


def test_two_series_side_by_side() -> None:
    assert histogram(LATENCIES, columns=60) == [
        "     ms batching on               batching off",
        "10 - 12 ███████████████▎      60%",
        "12 - 15 ███████▋              30%",
        "15 - 18 ██▌                   10% █████▏                20%",
        "18 - 22                           ████████████████████  79%",
        "   > 22                           ▎                      1%",
    ]


def test_one_below_the_other_where_it_is_narrow_and_in_ascii() -> None:
    assert histogram(LATENCIES, columns=24, ascii_only=True) == [
        "     ms batching on",
        "10 - 12 ##########  60%",
        "12 - 15 #####       30%",
        "15 - 18 ##          10%",
        "     ms batching off",
        "15 - 18 ###         20%",
        "18 - 22 ##########  79%",
        "   > 22              1%",
    ]


@given(on=some_latencies, off=some_latencies, columns=st.integers(1, 200), ascii_only=st.booleans())
def test_no_line_is_too_long_and_no_request_is_missing(
    *, on: list[float], off: list[float], columns: int, ascii_only: bool
) -> None:
    lines = histogram({"on": on, "off": off}, columns=columns, ascii_only=ascii_only)
    assert max(map(len, lines)) <= max(columns, 27)
    assert len(lines) <= 2 * 22
    assert "\n" not in "".join(lines)
    if ascii_only:
        assert "".join(lines).isascii()
    shown = [word for line in lines for word in line.split() if word.endswith("%")]
    # Each is rounded, or less than one percent.
    total = sum(0.25 if word == "<1%" else int(word[:-1]) for word in shown)
    assert abs(total - 200) <= len(shown) / 2


def test_a_picture_is_a_png_of_moderate_size(tmp_path: Path) -> None:
    dice = random.Random(1)
    series = {name: [dice.lognormvariate(mu, 0.3) for _ in range(5000)] for name, mu in (("on", 2.5), ("off", 3.4))}
    draw(series, "a title", tmp_path / "found.png")
    content = (tmp_path / "found.png").read_bytes()
    assert content.startswith(PNG)
    assert 5_000 < len(content) < 100_000


def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    return tmp_path / "cache" / "hpcserve" / FILE


def test_the_demos_picture_lies_in_the_cache_and_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cached(tmp_path, monkeypatch)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"an old one")
    said: list[str] = []
    assert picture(LATENCIES, tmp_path, said.append) == str(place)
    assert place.read_bytes().startswith(PNG)
    assert said == []


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = cached(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said: list[str] = []
    assert not picture(LATENCIES, tmp_path, said.append)
    assert said == ["for a picture of the latencies: pip install 'hpcserve[plot]'"]
    assert not place.exists()


def test_a_cache_that_cannot_be_written_costs_the_picture_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = cached(tmp_path, monkeypatch)
    place.parent.parent.write_bytes(b"no directory")
    said: list[str] = []
    assert not picture(LATENCIES, tmp_path, said.append)
    assert said == [f"no picture of the latencies: cannot write {place}: Not a directory"]
