"""Deliveries with a real store and the real globus_sdk, whose tokens the stand-in gives to the service itself.

As a program, ``python -m tests.integration.globus.delivering DIRECTORY WHERE``, it delivers what the store of that
directory tells of, and kills itself with SIGKILL at the place that is named: before or after a step.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from hpcserve.auth.grants import Grants
from hpcserve.auth.sealed import Seal
from hpcserve.core.claims import Rules
from hpcserve.core.delivery import Delivery, End, Limits, Progress
from hpcserve.daemon.controller.deliveries import Deliveries
from hpcserve.daemon.controller.outside import Outside
from hpcserve.daemon.controller.storage import Storage
from hpcserve.daemon.controller.wallet import Wallet
from hpcserve.staging.transfer import Carrier, GlobusTransfer
from tests.integration.globus.setting import SECRET

DIGEST = "of-the-token"
LIMITS = Limits(batch_wait_s=0.05, shortest_pause_s=0.02, longest_pause_s=0.2, faults_s=20.0)
WITHIN_S = 60.0


class NoDoors:
    """Nobody needs a rule."""

    async def let_in(self, owner: str, collection: str) -> bool:
        """Needs none."""
        return False

    async def let_out(self, owner: str, is_idle: Callable[[], bool]) -> None:
        """Needs none."""


class Service:
    """What of a controller delivers. ``token``: by which Ada is in; empty: she is not.

    Args:
        directory: Where its store is.
        rules: What it wants of logins.
        token: See above.
        carrier: Makes what speaks to Globus.
    """

    def __init__(
        self,
        directory: Path,
        rules: Rules,
        token: str,
        *,
        limits: Limits = LIMITS,
        doors: Any = None,
        carrier: Callable[[str], Carrier] | None = None,
    ) -> None:
        self.directory = directory
        self.token = token
        self.arrived: list[str] = []
        self.storage = Storage()
        self.outside = Outside()
        self.grants = Grants(rules, SECRET)
        self.wallet = Wallet(self.grants, Seal(directory / "seal.key"), self.storage, self._ask, self.outside)
        self.deliveries = Deliveries(
            limits,
            self.storage,
            self.wallet,
            doors or NoDoors(),
            self.outside,
            carrier=carrier or (lambda token: GlobusTransfer(token, deadline_s=3600.0)),
            delivered=self._delivered,
        )
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.storage.open(self.directory / "store.db")
        await self.wallet.open()
        await self.deliveries.open(self.wallet.seen)
        self._running = asyncio.create_task(self.deliveries.run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.storage.close()

    def log_in(self, token: str, digest: str = DIGEST) -> None:
        """Ada comes with this token."""
        self.token = token
        if self.wallet.seen("ada", digest):
            self.deliveries.logged_in("ada")

    async def until(self, wanted: Callable[[], object]) -> None:
        """Until that is so."""
        async with asyncio.timeout(WITHIN_S):
            while not wanted():
                assert self._running is None or not self._running.done(), self._running
                await asyncio.sleep(0.01)

    async def ended(self) -> list[Delivery]:
        """All deliveries, when all have ended."""
        await self.until(lambda: all(each.ended for each in self.deliveries.book.deliveries()))
        return self.deliveries.book.deliveries()

    async def _ask(self, digest: str) -> str:
        return self.token if digest == DIGEST else ""

    async def _delivered(self, delivery: Delivery) -> None:
        self.arrived.append(delivery.name)


class Killed:
    """What dies before or after one of its steps."""

    def __init__(self, carrier: Carrier, where: str) -> None:
        self._carrier = carrier
        self._where = where

    def submission_id(self) -> str:
        return str(self._step("prepare", self._carrier.submission_id))

    def submit(self, submission: str, items: Sequence[tuple[End, End]]) -> str:
        return str(self._step("submit", lambda: self._carrier.submit(submission, items)))

    def find(self, submission: str) -> str:
        return self._carrier.find(submission)

    def look(self, task: str) -> Progress:
        progress: Progress = self._step("look", lambda: self._carrier.look(task))
        return progress

    def found(self, end: End) -> str:
        return self._carrier.found(end)

    def cancel(self, task: str) -> None:
        self._carrier.cancel(task)

    def close(self) -> None:
        self._carrier.close()

    def _step(self, step: str, take: Callable[[], Any]) -> Any:
        if self._where == f"before-{step}":
            os.kill(os.getpid(), signal.SIGKILL)
        taken = take()
        if self._where == f"after-{step}":
            os.kill(os.getpid(), signal.SIGKILL)
        return taken


async def main(directory: Path, where: str) -> None:
    """See the module."""
    client, scope, token = (directory / "login").read_text().split()
    rules = Rules(client_id=client, login_client_id="", scope=scope, issuer="")

    def carrier(of: str) -> Carrier:
        return Killed(GlobusTransfer(of, deadline_s=3600.0), where)

    async with Service(directory, rules, token, carrier=carrier) as service:
        await service.ended()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
