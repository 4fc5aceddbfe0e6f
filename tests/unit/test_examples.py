from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import examples
from hpcserve.errors import InvalidInput, ServableError
from hpcserve.examples.digits.train import held_out, train
from hpcserve.registry.ingest import ingest
from hpcserve.registry.manifest_file import read_manifest
from hpcserve.servable.api import Context
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.signature import check_inputs
from hpcserve.wire.tensor import Json

FIRST_50 = "14159265358979323846264338327950288419716939937510"
LAST_OF_100_000 = "5493624646"
SHA256_OF_100_000 = "5ebe8007d764bce33aba7a85a0da0924e96663fbb2e0fd089b9e8cd3be482bc2"
"""Of the digits behind the point, as text; by the arithmetic-geometric mean."""


def loaded(directory: Path) -> Loaded:
    manifest = read_manifest(directory)
    return loader_named(manifest.loader).load(manifest, Context(directory))


@pytest.fixture(scope="module")
def pi() -> Loaded:
    return loaded(examples.path("pi"))


def digits_of(pi: Loaded, count: int) -> str:
    found = pi.run("digits", {"ndigits": np.array(count)}, {})["digits"]
    assert found.shape == ()
    text = found.item().decode()
    assert text[:2] == "3."
    assert len(text) == count + 2
    return str(text[2:])


@pytest.mark.parametrize("count", [*range(1, 51)])
def test_pi_begins_as_known(pi: Loaded, count: int) -> None:
    assert digits_of(pi, count) == FIRST_50[:count]


def by_means(count: int) -> str:
    """The digits by the arithmetic-geometric mean: another formula, summed another way.

    Source: R. P. Brent, "Multiple-precision zero-finding methods", 1975; E. Salamin, 1976.
    """
    unit = 10 ** (count + 50)
    a, b, t, p = unit, math.isqrt(unit * unit // 2), unit // 4, 1
    while a - b > 10**5:
        mean = (a + b) // 2
        b = math.isqrt(a * b)
        t -= p * ((a - mean) ** 2 // unit)
        a, p = mean, 2 * p
    return str((a + b) ** 2 // (4 * t) // 10**50)[1:]


def test_pi_agrees_with_another_formula(pi: Loaded) -> None:
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(0)
        assert digits_of(pi, 10_000) == by_means(10_000)
    finally:
        sys.set_int_max_str_digits(limit)


def test_a_hundred_thousand_digits(pi: Loaded) -> None:
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(4300)
        found = digits_of(pi, 100_000)
    finally:
        sys.set_int_max_str_digits(limit)
    assert found[:50] == FIRST_50
    assert found[-10:] == LAST_OF_100_000
    assert hashlib.sha256(found.encode()).hexdigest() == SHA256_OF_100_000


def test_digits_are_cut_off_and_not_rounded(pi: Loaded) -> None:
    """The 762nd to 767th digits are 999999, then 8: rounding at 761 would carry."""
    found = digits_of(pi, 770)
    assert found[761:768] == "9999998"
    for count in range(758, 770):
        assert digits_of(pi, count) == found[:count]


@pytest.mark.parametrize("count", [0, -1, 10_000_001, -(2**63), 2**63 - 1])
def test_a_silly_number_of_digits_is_refused(pi: Loaded, count: int) -> None:
    with pytest.raises(ServableError, match=f"ndigits = {count}: expected 1 to 10000000"):
        pi.run("digits", {"ndigits": np.array(count)}, {})


def test_pi_without_gmpy2_gives_the_same() -> None:
    program = (
        "import sys; sys.modules['gmpy2'] = None; sys.path.insert(0, sys.argv[1]); import pi, numpy; "
        "assert pi.integer is int; print(pi.digits(numpy.array(1000)).decode()[-20:])"
    )
    argv = [sys.executable, "-c", program, str(examples.path("pi"))]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == by_means(1000)[-20:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("digits") / "new" / "directory")


def test_digits_reads_the_half_that_it_has_not_seen(trained: Path) -> None:
    images, labels = held_out()
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((899, 64), np.float64, (899,), np.int64)
    found = loaded(trained).run("predict", {"image": images}, {})["label"]
    assert found.dtype == np.int64
    assert float(np.mean(found == labels)) == pytest.approx(0.9689, abs=0.005)


def test_digits_answers_alike_alone_and_in_a_batch(trained: Path) -> None:
    images, _ = held_out()
    servable = loaded(trained)
    together = servable.run("predict", {"image": images[:20]}, {})["label"]
    alone = [servable.run("predict", {"image": images[i : i + 1]}, {})["label"][0] for i in range(20)]
    assert together.tolist() == alone


def test_digits_declares_what_it_takes(trained: Path) -> None:
    spec = read_manifest(trained).methods["predict"]
    assert check_inputs("predict", spec, (("", "float64", (5, 64)),)) == ("image",)
    with pytest.raises(InvalidInput, match=r"input 'image' has shape \[5, 8, 8\], expected \[any, 64\]"):
        check_inputs("predict", spec, (("image", "float64", (5, 8, 8)),))


def test_echo() -> None:
    echo = loaded(examples.path("echo"))
    numbers: np.ndarray[Any, Any] = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(echo.run("echo", {"x": numbers}, {})["x"], numbers)
    blob: np.ndarray[Any, Any] = np.frombuffer(b"\0\xff", np.uint8)
    assert echo.run("blob", {"blob": blob}, {})["blob"].tobytes() == b"\0\xff"
    assert echo.run("value", {"value": {"value": 1}}, {}) == {"value": Json({"value": 1})}
    assert echo.run("value", {"value": [None]}, {"wrap": "w"}) == {"value": Json({"w": [None]})}


def test_a_walk_is_the_same_again_for_one_seed() -> None:
    def walked(parameters: dict[str, Any], count: int = 50) -> np.ndarray[Any, Any]:
        items = loaded(examples.path("walk")).stream("steps", {"start": np.array([1.0, 2.0])}, parameters)
        return np.stack([item["at"] for _ in range(count) if (item := items.next()) is not None])

    walk = walked({})
    np.testing.assert_array_equal(walk[0], [1.0, 2.0])
    np.testing.assert_array_equal(walked({"seed": 0}), walk)
    np.testing.assert_allclose(walked({"scale": 2.0}) - walk[0], 2 * (walk - walk[0]))
    assert not np.array_equal(walked({"seed": 1}), walk)
    assert np.std(np.diff(walked({"seed": 2}, 5000), axis=0)) == pytest.approx(1.0, abs=0.05)
    with pytest.raises(InvalidInput, match="unknown parameters sead: there are seed and scale"):
        walked({"sead": 1})


@pytest.mark.parametrize(
    ("find", "methods"),
    [
        (lambda _: examples.path("pi"), ["digits"]),
        (lambda _: examples.path("echo"), ["blob", "echo", "value"]),
        (lambda _: examples.path("walk"), ["steps"]),
        (lambda trained: trained, ["predict"]),
    ],
)
def test_each_example_can_be_published(
    trained: Path, tmp_path: Path, find: Callable[[Path], Path], methods: list[str]
) -> None:
    started = time.monotonic()
    found = ingest(find(trained), tmp_path / "shared", timeout_s=60)
    assert sorted(found.manifest.methods) == methods
    assert time.monotonic() - started < 60


def test_an_unknown_example() -> None:
    with pytest.raises(ValueError, match="no complete example 'digts'; there are echo, pi, walk"):
        examples.path("digts")
