"""The example ``surrogate``: its solver beside the closed form, its network beside the solver."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve.errors import ServableError
from hpcserve.examples.surrogate.fit import fit
from hpcserve.examples.surrogate.oscillator import HIGH, LOW, drawn, solve
from hpcserve.registry.ingest import ingest
from hpcserve.registry.manifest_file import read_manifest
from hpcserve.servable.api import Context, SampleError
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders import loader_named

Array = np.ndarray[Any, Any]


def closed_form(oscillators: Array) -> Array:
    """x and v of the underdamped oscillator: e^(-ζωt) times a harmonic of frequency ω √(1 - ζ²)."""
    x, v, omega, zeta, t = oscillators.T
    damped = omega * np.sqrt(1 - zeta**2)
    decay, cosine, sine = np.exp(-zeta * omega * t), np.cos(damped * t), np.sin(damped * t)
    return np.stack(
        [
            decay * (x * cosine + (v + zeta * omega * x) / damped * sine),
            decay * (v * cosine - (zeta * omega * v + omega**2 * x) / damped * sine),
        ],
        axis=1,
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("surrogate") / "new" / "directory")


@pytest.fixture(scope="module")
def surrogate(fitted: Path) -> Loaded:
    manifest = read_manifest(fitted)
    return loader_named(manifest.loader).load(manifest, Context(fitted))


def advance(surrogate: Loaded, oscillators: Array) -> Array:
    end: Array = surrogate.run("advance", {"oscillator": oscillators}, {})["end"]
    return end


def test_the_solver_agrees_with_the_closed_form() -> None:
    oscillators = drawn(2_000, seed=3)
    assert np.abs(solve(oscillators) - closed_form(oscillators)).max() < 1e-6


def test_the_solver_at_the_corners_and_at_no_time() -> None:
    corners = np.array(np.meshgrid(*zip(LOW, HIGH, strict=True))).reshape(5, -1).T
    assert np.abs(solve(corners) - closed_form(corners)).max() < 1e-6
    still = np.where(np.arange(5) == 4, 0.0, drawn(10, seed=1))
    np.testing.assert_array_equal(solve(still), still[:, :2])


def test_the_network_is_as_good_as_the_demo_says(surrogate: Loaded) -> None:
    oscillators = drawn(5_000, seed=1)
    wrong = advance(surrogate, oscillators) - closed_form(oscillators)
    assert float(np.sqrt(np.mean(wrong**2))) < 0.005
    assert float(np.abs(wrong).max()) < 0.2


def test_the_fit_gives_the_same_each_time_and_takes_seconds(fitted: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    again = fit(tmp_path)
    assert time.monotonic() - began < 30
    with np.load(fitted / "network.npz") as one, np.load(again / "network.npz") as other:
        assert set(one) == set(other)
        for name in one:
            # Another number of threads adds up in another order.
            np.testing.assert_allclose(one[name], other[name], rtol=1e-2, atol=1e-2)


def test_a_row_has_the_same_answer_alone_and_in_a_batch(surrogate: Loaded) -> None:
    oscillators = drawn(20, seed=5)
    together = advance(surrogate, oscillators)
    alone = np.concatenate([advance(surrogate, row[None]) for row in oscillators])
    np.testing.assert_allclose(alone, together, atol=1e-3)
    assert (together.dtype, together.shape) == (np.float64, (20, 2))


@pytest.mark.parametrize(("column", "value"), [(0, 1.5), (1, -1.001), (2, 0.0), (3, np.nan), (4, np.inf), (4, -1e-9)])
def test_what_it_has_not_learned_is_one_samples_fault(surrogate: Loaded, column: int, value: float) -> None:
    oscillators = drawn(8, seed=2)
    oscillators[5, column] = value
    with pytest.raises(ServableError, match=r"is outside of what was learned: x, v, ω, ζ, t from \[-1.0, ") as found:
        advance(surrogate, oscillators)
    assert isinstance(found.value.__cause__, SampleError)
    assert found.value.__cause__.index == 5


def test_the_edge_of_what_it_has_learned_is_within(surrogate: Loaded) -> None:
    assert np.isfinite(advance(surrogate, np.array([LOW, HIGH]))).all()


def test_it_can_be_published(fitted: Path, tmp_path: Path) -> None:
    found = ingest(fitted, tmp_path / "shared", timeout_s=60)
    assert found.manifest.methods["advance"].batchable
