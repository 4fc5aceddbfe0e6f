"""What the controller remembers: no more versions than are wanted or run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from hpcserve.config import load_site
from hpcserve.core.rollout import Version
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.fence import Fence
from hpcserve.daemon.controller.plan import Servable
from hpcserve.registry.rows import DeploymentRow
from hpcserve.servable.manifest import Manifest
from hpcserve.types import DeploymentName, Digest, EndpointName, PilotId, ReplicaId

NAME = DeploymentName("d")


def row(version: str) -> DeploymentRow:
    return DeploymentRow(
        name=NAME, servable="s", version=Digest(version), replicas=1, endpoint=EndpointName("d"), created_s=0.0
    )


def test_versions_are_forgotten_when_nothing_runs_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = msgspec.structs.replace(load_site("local"), state_dir=tmp_path, shared_dir=tmp_path)
        controller = Controller(site, runtime_dir=tmp_path, record=tmp_path / "record", fence=Fence(tmp_path, 1, 5.0))
        for number in range(100):
            version = Version(f"v{number}")
            controller.serve(row(version.digest), Servable(version, Manifest(name="s", loader="python"), "/"))
            if number == 50:
                controller.fleet.adopt_replica(ReplicaId("r"), NAME, version, PilotId("p"))
            controller.tidy()
        assert set(controller.servables) == {(NAME, "v50"), (NAME, "v99")}
        controller.unserve(NAME)
        controller.tidy()
        assert set(controller.servables) == {(NAME, "v50")}
        controller.hub.close()

    asyncio.run(scenario())
