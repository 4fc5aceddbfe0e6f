"""A servable in a module of the site, on several nodes of a pilot: srun starts the shell that loads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.wire.jsonvalue import Json
from tests.facility.box.cluster import Box
from tests.facility.box.options import Options
from tests.facility.conftest import NewFacility
from tests.facility.service import PATIENCE_S, deployment, status, until
from tests.own_python import NEEDED, make_conda, make_module, make_servable, need_modules

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

FAILED = 1


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(nodes=2)


def test_a_module_answers_on_each_node(box: Box, new_facility: NewFacility) -> None:
    need_modules()
    place = box.directory / "own"
    prefix = make_conda(place / "python", *NEEDED)
    module = f"prepend-path PATH {prefix}/bin\nsetenv ML {{1 0}}\n"
    modules = make_module(place / "modules", "ml/1.0", module)
    servable = make_servable(place / "by-module", "by-module", kind="module", modules=["ml/1.0"])
    facility = new_facility(
        pilots={"launcher": "srun", "nodes": 2, "max_pilots": 1, "slots": 2},
        environments={"prologue": [f"module use {modules}"]},
    ).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, servable, replicas=2)
        found: dict[str, dict[str, str]] = {}

        def both_told() -> bool:
            asked = [client.submit(endpoint, Json(["ML", "SLURMD_NODENAME"])) for _ in range(8)]
            for each in asked:
                told = each.result(PATIENCE_S)["told"]
                found[told["SLURMD_NODENAME"]] = told
            return len(found) == 2

        until(both_told, "both replicas have answered")
        assert [(told["ML"], Path(told["prefix"])) for told in found.values()] == [("1 0", prefix)] * 2

        (pilot,) = status(client).pilots
        replicas = deployment(client, endpoint).replicas
        assert set(pilot.phases) == {"queue", "agent"}
        assert all(set(each.phases) == {"start", "import", "load", "connect"} for each in replicas)

    make_module(place / "modules", "login/1.0", module + "if {[info exists env(SLURM_JOB_ID)]} {break}\n")
    servable = make_servable(place / "login-alone", "login-alone", kind="module", modules=["login/1.0"])
    code, said = facility.try_to_deploy(servable, timeout_s=int(PATIENCE_S))
    assert code == FAILED
    assert "on node" in said
    assert "module load login/1.0 failed" in said
