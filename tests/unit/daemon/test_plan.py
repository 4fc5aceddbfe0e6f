"""What callers are told of a deployment that failed: whoever is to blame, and what to do."""

from __future__ import annotations

import pytest

from hpcserve.core.rollout import FleetDeployment, Version
from hpcserve.core.scaling import Scale, Scaler
from hpcserve.daemon.controller.plan import failure
from hpcserve.types import DeploymentName
from tests.unit.core.untried import Never

V1, V2 = Version("0123456789abcdef"), Version("fedcba9876543210")


def made(*, reason: str = "it broke", pilots_ended: bool = False, served: Version = V1) -> FleetDeployment:
    deployment = FleetDeployment(name=DeploymentName("d"), version=V1, replicas=1, restarts=Never(), served=served)
    deployment.fail(reason, "", pilots_ended=pilots_ended)
    return deployment


def test_a_servable_that_cannot_start_is_to_be_corrected() -> None:
    assert failure(made()) == "it broke; correct the servable, publish and deploy it again"


def test_a_servable_is_not_to_be_corrected_because_pilots_end() -> None:
    assert failure(made(pilots_ended=True)) == (
        "it broke; correct the site file, then hpcserve down and up; or deploy it again when pilot jobs start again; "
        "one is tried 10 minutes after this one"
    )


def test_whoever_may_ask_again_is_told_when() -> None:
    deployment = made(pilots_ended=True)
    deployment.scaler = Scaler(Scale(least=0, most=2, hot=0, idle_s=60.0))
    assert failure(deployment).endswith("; one is tried for whoever asks more than 10 minutes after this one")


def test_that_the_site_file_is_to_be_corrected_is_said_once() -> None:
    said = "no such queue; correct pilots.partition in the site file"
    assert failure(made(reason=said, pilots_ended=True)) == (
        f"{said}; after that hpcserve down and up; or deploy it again when pilot jobs start again; one is tried 10 "
        "minutes after this one"
    )


def test_a_servable_is_not_to_be_corrected_where_the_site_is_at_fault() -> None:
    assert failure(made(reason="there is no command 'mpiexec'; correct mpi.command of the site file")) == (
        "there is no command 'mpiexec'; correct mpi.command of the site file; deploy it again afterwards (if the site "
        "file was changed, after hpcserve down and up)"
    )


@pytest.mark.parametrize(
    "reason",
    [
        "image /a.sif changed after the servable was published; publish and deploy the servable again",
        "image /a.sif: nobody has looked at it yet; publish the servable again",
        "hpcserve was replaced while it ran; take the daemon down and up again",
    ],
)
def test_who_is_told_what_to_do_is_told_it_once(reason: str) -> None:
    assert failure(made(reason=reason)) == reason
    assert failure(made(reason=reason, served=V2)) == f"{reason}; version fedcba987654 goes on serving"


def test_the_version_that_goes_on_is_named() -> None:
    assert failure(made(served=V2)).endswith("; version fedcba987654 goes on serving")
