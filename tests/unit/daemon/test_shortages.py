"""What replicas are told of batches that others had no memory for."""

from __future__ import annotations

from hpcserve.daemon.broker.shortages import MOST, Shortages
from hpcserve.types import DeploymentName
from hpcserve.wire.messages import Fits, Tune

A, B = DeploymentName("a"), DeploymentName("b")
TUNE = Tune(objective_ms=5.0)


def fits(samples: int, *, version: str = "v1", method: str = "go", axis: int = 3) -> Fits:
    return Fits(version, method, (("x", "float32", (axis,)),), samples)


def test_each_deployment_is_told_its_own() -> None:
    known = Shortages()
    assert known.told_with(TUNE, A) is TUNE
    known.note(A, fits(32))
    known.note(A, fits(8, method="other"))
    known.note(B, fits(4))
    assert known.told_with(TUNE, A) == Tune(objective_ms=5.0, fits=(fits(32), fits(8, method="other")))
    assert known.told_with(TUNE, B).fits == (fits(4),)
    assert known.told_with(TUNE, DeploymentName("c")) == TUNE


def test_of_one_kind_the_least_counts_and_a_new_version_is_another_kind() -> None:
    known = Shortages()
    for samples in (32, 8, 16):
        known.note(A, fits(samples))
    known.note(A, fits(64, version="v2"))
    assert known.told_with(TUNE, A).fits == (fits(8), fits(64, version="v2"))


def test_those_that_were_told_of_last_are_kept() -> None:
    known = Shortages()
    for axis in range(2 * MOST):
        known.note(A, fits(1, axis=0))
        known.note(A, fits(1, axis=axis))
    axes = [each.inputs[0][2][0] for each in known.told_with(TUNE, A).fits]
    assert len(axes) == MOST
    assert {0, 2 * MOST - 1} <= set(axes)
