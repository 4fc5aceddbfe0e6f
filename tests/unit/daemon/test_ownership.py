"""Whose deployments and replicas are, and what they serve at this moment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hpcserve.core.access import Deployment, Servable
from hpcserve.core.rollout import Version
from hpcserve.daemon.controller.ownership import UNKNOWN, Ownership
from hpcserve.daemon.controller.storage import Storage
from hpcserve.registry.rows import DeploymentRow, NameRow
from hpcserve.registry.store import Store
from hpcserve.types import DeploymentName, Digest, EndpointName

M = DeploymentName("m")
SECRET, OPEN = Servable("user:ada", ()), Servable("user:ada")


class Town:
    """A deployment of Ada's, in which servable ``secret`` serves and ``open`` is wanted."""

    def __init__(self, storage: Storage) -> None:
        self.serves = "s" * 64
        row = DeploymentRow(
            name=M,
            servable="open",
            version=Digest("o" * 64),
            replicas=1,
            endpoint=EndpointName("m"),
            created_s=1.0,
            owner="user:ada",
        )
        names = {"s" * 64: "secret", "o" * 64: "open"}
        servables: Any = {
            (M, digest): SimpleNamespace(manifest=SimpleNamespace(name=name)) for digest, name in names.items()
        }
        self.replicas = {
            replica: SimpleNamespace(replica=replica, deployment=M, version=Version(digest * 64))
            for replica, digest in (("m-1", "s"), ("m-2", "o"))
        }
        fleet: Any = SimpleNamespace(serving=lambda name: Version(self.serves), replicas=self.replicas)
        self.served = {M: row}
        self.ownership = Ownership(storage, fleet, self.served, servables)
        self.ownership.named(NameRow.made("secret", "user:ada", ()))
        self.ownership.named(NameRow.made("open", "user:ada", ("*",)))


def test_a_deployment_is_as_visible_as_what_answers_there_now() -> None:
    town = Town(Storage())
    assert town.ownership.deployment(M) == Deployment("user:ada", SECRET)
    town.serves = "o" * 64
    assert town.ownership.deployment(M) == Deployment("user:ada", OPEN)
    assert town.ownership.deployment(DeploymentName("n")) == UNKNOWN


def test_what_replicas_ran_is_known_after_their_deployment_and_this_process_are_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        storage = Storage()
        await storage.open(tmp_path / "store.db")
        town = Town(storage)
        await town.ownership.note()
        town.replicas.clear()
        town.served.clear()
        later = Ownership(storage, SimpleNamespace(replicas={}), {}, {})  # type: ignore[arg-type]
        await storage.do(Store.put_name, NameRow.made("secret", "user:ada", ()))
        await storage.do(Store.put_name, NameRow.made("open", "user:ada", ("*",)))
        await later.recall()
        for known in (town.ownership, later):
            assert known.ran("m-1") == Deployment("user:ada", SECRET)
            assert known.ran("m-2") == Deployment("user:ada", OPEN)
            assert known.ran("m-3") == UNKNOWN
        await later.prune(tmp_path / ("l" * 300), lambda replica: False)
        assert later.has_run("m-1"), "whether it has a log is not known where the file system does not show it"
        (tmp_path / "m-2.log").touch()
        await later.prune(tmp_path, lambda replica: False)
        assert [later.has_run(replica) for replica in ("m-1", "m-2")] == [False, True]
        assert [row.replica for row in await storage.do(Store.ran)] == ["m-2"]
        await storage.close()

    asyncio.run(scenario())
