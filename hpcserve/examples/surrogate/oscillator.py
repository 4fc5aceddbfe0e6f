"""The damped oscillator x'' + 2ζω x' + ω² x = 0, solved step by step: what the surrogate stands in for.

An oscillator is a row of five numbers: x and v = x' at the beginning, ω, ζ, and the time t until when it is wanted.
Its end is a row of two: x and v at t.

Source: the classical Runge–Kutta method of fourth order; W. Kutta, "Beitrag zur näherungsweisen Integration totaler
Differentialgleichungen", 1901.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LOW = np.array([-1.0, -1.0, 0.5, 0.05, 0.0])
HIGH = np.array([1.0, 1.0, 2.0, 0.5, 2.0])
"""The range of x, v, ω, ζ and t that the surrogate learns."""
STEPS = 64
"""Of the solver, whatever t is: with ωt up to 4 its error is some 1e-7."""


def solve(oscillators: Array) -> Array:
    """The ends of ``oscillators: float64[n, 5]`` as ``float64[n, 2]``."""
    omega, zeta, t = oscillators[:, 2:].T
    h = (t / STEPS)[:, None]
    state = oscillators[:, :2]
    for _ in range(STEPS):
        k1 = _slope(state, omega, zeta)
        k2 = _slope(state + h / 2 * k1, omega, zeta)
        k3 = _slope(state + h / 2 * k2, omega, zeta)
        k4 = _slope(state + h * k3, omega, zeta)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state


def drawn(count: int, *, seed: int) -> Array:
    """So many oscillators, ``float64[count, 5]``, evenly from the whole range."""
    return np.random.default_rng(seed).uniform(LOW, HIGH, (count, len(LOW)))


def _slope(state: Array, omega: Array, zeta: Array) -> Array:
    x, v = state.T
    return np.stack([v, -2 * zeta * omega * v - omega**2 * x], axis=1)
