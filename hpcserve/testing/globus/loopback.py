"""The stand-in put together: one world, its faults, its services, one server."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from hpcserve.testing.globus.auth_claims import Claims, Signer
from hpcserve.testing.globus.auth_login import LoginPages
from hpcserve.testing.globus.auth_registry import Registry
from hpcserve.testing.globus.auth_tokens import TokenEndpoint
from hpcserve.testing.globus.collections import Collection, Collections, Kind
from hpcserve.testing.globus.faults import Faults
from hpcserve.testing.globus.groups import Groups
from hpcserve.testing.globus.http import Service
from hpcserve.testing.globus.https_collections import HttpsCollections
from hpcserve.testing.globus.movers import CopyMover, Mover
from hpcserve.testing.globus.records import Person
from hpcserve.testing.globus.server import Server
from hpcserve.testing.globus.steering import Steering
from hpcserve.testing.globus.transfer import Transfer
from hpcserve.testing.globus.transfer_orders import transfer_orders
from hpcserve.testing.globus.world import World


class LoopbackGlobus:
    """A Globus on this machine alone, as a context manager.

    Args:
        directory: Where its certificates go, and the files of collections. Nobody else should be able to write there.
        mover: What moves the bytes of transfers; by default a plain copy.
        port: Where it listens, if nobody else does; by default, and else, the system chooses.
    """

    def __init__(self, directory: Path, mover: Mover | None = None, *, port: int = 0) -> None:
        self.directory = directory
        self.world = World()
        self.faults = Faults()
        self.collections = Collections(self.world, directory / "collections")
        self.transfer = Transfer(self.world, self.collections, mover or CopyMover())
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._server = Server(directory, self._services(), self.faults, port=port)

    @property
    def url(self) -> str:
        """Of Auth, Groups and Transfer alike; it ends with a slash."""
        return self._server.url

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    @property
    def environment(self) -> dict[str, str]:
        """What makes globus-sdk of this or another process speak to the stand-in."""
        services = ("AUTH", "GROUPS", "TRANSFER")
        return {
            **{f"GLOBUS_SDK_SERVICE_URL_{service}": self.url for service in services},
            "GLOBUS_SDK_VERIFY_SSL": str(self._server.ca),
        }

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.close()
        self.transfer.queue.close()

    def add_collection(
        self, name: str, owner: Person, kind: Kind = Kind.MAPPED, *, root: Path | None = None, host: str | None = None
    ) -> Collection:
        """Open a collection, see :meth:`Collections.open`."""
        return self.collections.open(name, owner.id, kind, root=root, host=host)

    def _services(self) -> list[Service]:
        signer = Signer(self.world)
        return [
            LoginPages(self.world),
            TokenEndpoint(self.world, signer),
            Claims(self.world, signer),
            Registry(self.world),
            Groups(self.world),
            Steering(self.world, self.faults, transfer_orders(self.world, self.collections, self.transfer.queue)),
            self.transfer,
            HttpsCollections(self.world, self.collections),
        ]
