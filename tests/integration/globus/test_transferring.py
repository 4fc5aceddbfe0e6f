"""The calls about transfers, on a service whose results lie on a guest collection: whose files may go where."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from hpcserve.config import Site
from hpcserve.daemon.audit import audit_path
from hpcserve.daemon.controller.guard import Asking, Guard, asking_of
from hpcserve.daemon.controller.storage import Storage
from hpcserve.daemon.controller.transferring import Transferring, transferring_of
from hpcserve.errors import Conflict, InvalidInput, NotFound, PermissionDenied, StagedFileGone
from hpcserve.registry.deliveries import kept_logins
from hpcserve.testing.globus.collections import Collection, Kind
from hpcserve.testing.globus.records import TRANSFER_ALL, Person
from hpcserve.types import SessionId
from hpcserve.wire import hub
from hpcserve.wire.admin import AskDestination, AskTransfers, CancelTransfer, Deliver, TransferView
from tests.integration.globus.delivering import WITHIN_S
from tests.integration.globus.setting import SECRET
from tests.integration.globus.transfers import Transfers

OPS_ADMINISTER = "access.administer.allow user:ops@lab.example"


@dataclass
class Stage:
    """A service and its callers. ``guest`` shows the directory of staged results; it is the service's."""

    transfers: Transfers
    site: Site
    guest: Collection
    transferring: Transferring
    storage: Storage
    arrived: list[tuple[str, str]]

    def staged(self, person: Person, name: str = "r.h5") -> str:
        """A staged result of somebody's."""
        directory = Path(self.site.staging_dir) / person.id
        directory.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"result of " + person.id.encode())
        return str(directory / name)

    def asking(self, person: Person, login: str = "") -> Asking:
        """Somebody calls, by this login of his."""
        identity = hub.Identity(person.username, id=person.id, token_sha256=f"of-{person.id}{login}")
        call = hub.ClientCalls(b"", person.username, 1, "", msgspec.Raw(), hub.Asker(identity, SessionId(b"s")))
        return asking_of(call)

    async def deliver(self, person: Person, *paths: str, to: str = "") -> Sequence[TransferView]:
        """Somebody wants files on the laptop."""
        uri = to or f"globus://{self.transfers.laptop.id}/in/"
        return (await self.transferring.deliver(Deliver(paths=paths, to=uri), self.asking(person))).transfers

    async def look(self, person: Person) -> Sequence[TransferView]:
        """What somebody sees."""
        return (await self.transferring.transfers(AskTransfers(), self.asking(person))).transfers


@asynccontextmanager
async def staged_service(
    transfers: Transfers,
    place: Path,
    *,
    https: bool = False,
    scopes: str = "",
    mapped: Collection | None = None,
    **staging: float,
) -> AsyncIterator[Stage]:
    """``mapped``: shows the directory in place of a guest collection. ``staging``: more of the site's."""
    setting = transfers.setting
    (place / "secret").write_text(SECRET)
    (place / "secret").chmod(0o600)
    (place / "staged").mkdir()
    guest = setting.globus.collections.open(
        "results", setting.service.id, Kind.GUEST, root=place / "staged", host=transfers.facility.id
    )
    site = msgspec.convert(
        {
            "name": "lab",
            "auth": "globus",
            "access": {"administer": {"allow": ["user:ops@lab.example"]}},
            "state_dir": place / "state",
            "shared_dir": place,
            "globus": {
                "client_id": setting.service.id,
                "client_secret_file": str(place / "secret"),
                "native_client_id": setting.native.id,
            },
            "staging": {
                "transfer_wait_s": 0.0,
                "collections": [
                    {
                        "id": (mapped or guest).id.upper(),
                        "prefix": str(place / "staged"),
                        "kind": "mapped" if mapped else "guest",
                        "https": https,
                    }
                ],
                **staging,
            },
        },
        Site,
        dec_hook=lambda _kind, value: value,
    )
    tokens: dict[str, str] = {}

    async def ask(digest: str) -> str:
        if digest not in tokens:
            person = setting.world.people[digest.removeprefix("of-")[:36]]
            scope = f"{setting.scope}{scopes or f'[{TRANSFER_ALL} {guest.https_scope}]'}"
            tokens[digest] = setting.world.token_for(person, setting.native, scope).value
        return tokens[digest]

    arrived: list[tuple[str, str]] = []

    async def delivered(owner: str, name: str) -> None:
        arrived.append((owner, name))

    storage = Storage()
    (place / "state").mkdir(mode=0o700)
    await storage.open(place / "state" / "store.db")
    guard = Guard(site)
    transferring = transferring_of(site, guard, storage, ask, delivered)
    await transferring.open()
    running = asyncio.create_task(transferring.run())
    try:
        yield Stage(transfers, site, guest, transferring, storage, arrived)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await storage.close()
        guard.close()


def test_a_result_arrives_and_the_rule_that_let_it_goes(transfers: Transfers, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged_service(transfers, tmp_path) as stage:
            ada = transfers.setting.person
            transfers.laptop.trouble.offline = True
            (view,) = await stage.deliver(ada, stage.staged(ada))
            assert view.to == f"globus://{transfers.laptop.id}/in/r.h5"
            async with asyncio.timeout(WITHIN_S):
                while not (await stage.look(ada))[0].task:
                    await asyncio.sleep(0.02)
                [rule] = stage.guest.rules.values()
                assert (rule.principal, rule.path, rule.permissions) == (ada.id, f"/{ada.id}/", "r")
                assert stage.transferring.holds(ada.id, "r.h5")
                transfers.laptop.trouble.offline = False
                while not stage.arrived or stage.guest.rules:
                    await asyncio.sleep(0.02)
            assert stage.arrived == [(ada.id, "r.h5")]
            assert not stage.transferring.holds(ada.id, "r.h5")
            [again] = await stage.deliver(ada, stage.staged(ada))
            assert (again.id, again.state) == (view.id, "succeeded")
        assert transfers.arrived("/in/r.h5").read_bytes() == b"result of " + ada.id.encode()

    asyncio.run(scenario())


def test_nobody_has_to_do_with_what_is_another_s(transfers: Transfers, tmp_path: Path) -> None:
    async def scenario() -> None:
        ada, bob = transfers.setting.person, transfers.setting.world.add_person("bob@lab.example")
        async with staged_service(transfers, tmp_path) as stage:
            transfers.laptop.trouble.offline = True
            stage.staged(bob)
            [view] = await stage.deliver(ada, stage.staged(ada))
            outside = tmp_path / "outside"
            outside.write_text("secret")
            (Path(stage.site.staging_dir) / bob.id / "link.h5").symlink_to(outside)
            own = f"{stage.site.staging_dir}/{bob.id}"
            for path in (
                stage.staged(ada),
                f"{own}/../{ada.id}/r.h5",
                f"{own}/./r.h5",
                f"{own}//r.h5",
                f"{own}/.service",
                f"{own}/",
                f"{own}/link.h5",
                own,
                str(outside),
                "/etc/passwd",
                "r.h5",
                "",
            ):
                with pytest.raises(PermissionDenied):
                    await stage.deliver(bob, path)
            with pytest.raises(StagedFileGone):
                await stage.deliver(bob, f"{own}/none.h5")
            assert await stage.look(bob) == ()
            with pytest.raises(NotFound):
                await stage.transferring.cancel(CancelTransfer(id=view.id), stage.asking(bob))
            with pytest.raises(NotFound):
                await stage.transferring.transfers(AskTransfers(ids=(view.id,)), stage.asking(bob))
            with pytest.raises(PermissionDenied):
                await stage.transferring.transfers(AskTransfers(everybody=True), stage.asking(bob))
            ops = transfers.setting.world.add_person("ops@lab.example")
            seen = await stage.transferring.transfers(AskTransfers(everybody=True), stage.asking(ops))
            assert [each.id for each in seen.transfers] == [view.id]
            done = await stage.transferring.cancel(CancelTransfer(id=view.id), stage.asking(ada))
            assert done.transfers[0].state in ("cancelling", "cancelled")
        lines = [json.loads(each) for each in audit_path(stage.site.state_dir, "controller").read_text().splitlines()]
        noted = [(each["name"], each["action"], each["allowed"], each["by"]) for each in lines]
        assert noted[0] == (ada.username, "deliver", True, "owner")
        assert noted[1:13] == [(bob.username, "deliver", False, "owner")] * 12
        assert noted[13:] == [
            (bob.username, "cancel-transfer", False, "owner"),
            (bob.username, "see", False, "access.administer.allow"),
            (ops.username, "see", True, OPS_ADMINISTER),
            (ada.username, "cancel-transfer", True, "owner"),
        ]
        assert {each["object"] for each in lines if each["action"] == "cancel-transfer"} == {view.id}
        assert {each["object"] for each in lines if each["action"] == "see"} == {"everybody's transfers"}

    asyncio.run(scenario())


def test_administrators_cancel_what_is_another_s(transfers: Transfers, tmp_path: Path) -> None:
    async def scenario() -> None:
        ada, ops = transfers.setting.person, transfers.setting.world.add_person("ops@lab.example")
        async with staged_service(transfers, tmp_path) as stage:
            transfers.laptop.trouble.offline = True
            [view] = await stage.deliver(ada, stage.staged(ada))
            await stage.transferring.cancel(CancelTransfer(id=view.id), stage.asking(ops))
            with pytest.raises(NotFound):
                await stage.transferring.cancel(CancelTransfer(id="none"), stage.asking(ops))
            async with asyncio.timeout(WITHIN_S):
                while (await stage.look(ada))[0].state != "cancelled":
                    await asyncio.sleep(0.02)
        lines = [json.loads(each) for each in audit_path(stage.site.state_dir, "controller").read_text().splitlines()]
        noted = [(each["name"], each["object"], each["allowed"], each["by"]) for each in lines]
        assert noted[1:] == [
            (ops.username, view.id, True, OPS_ADMINISTER),
            (ops.username, "none", False, "owner"),
        ]

    asyncio.run(scenario())


def test_a_task_is_as_the_site_says(transfers: Transfers, tmp_path: Path) -> None:
    asked = transfers.setting.globus.faults.asked

    async def scenario() -> None:
        ada = transfers.setting.person
        async with staged_service(
            transfers, tmp_path, transfers_per_user=1, transfer_files=2, transfer_deadline_s=600.0
        ) as stage:
            transfers.laptop.trouble.offline = True
            await stage.deliver(ada, *(stage.staged(ada, f"{number}.h5") for number in range(3)))
            async with asyncio.timeout(WITHIN_S):
                while sum(asked[each] for each in asked if each.startswith("GET /v0.10/task/")) < 3:
                    await asyncio.sleep(0.02)
            first, second, third = await stage.look(ada)
            assert (first.task, third.state, third.task) == (second.task, "waiting", "")
            assert "not its turn yet: 1 of the same owner's" in third.why
            shown = transfers.client().get_task(first.task)
            given = datetime.fromisoformat(shown["deadline"]) - datetime.fromisoformat(shown["request_time"])
            assert 500.0 < given.total_seconds() <= 600.0
            transfers.laptop.trouble.offline = False
            async with asyncio.timeout(WITHIN_S):
                while len(stage.arrived) < 3:
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


@pytest.mark.parametrize("keep", [True, False])
def test_a_login_is_kept_for_who_agrees(transfers: Transfers, tmp_path: Path, *, keep: bool) -> None:
    async def scenario() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path) as stage:
            transfers.laptop.trouble.offline = True
            wanted = Deliver(paths=(stage.staged(ada),), to=f"globus://{transfers.laptop.id}/in/", keep_login=keep)
            await stage.transferring.deliver(wanted, stage.asking(ada))
            rows = await stage.storage.do(kept_logins)
            assert [each.owner for each in rows] == ([ada.id] if keep else [])

    asyncio.run(scenario())


def test_a_new_login_wakes_what_waits(transfers: Transfers, tmp_path: Path) -> None:
    async def scenario() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path) as stage:
            transfers.setting.globus.faults.add("GET /v0.10/submission_id", 503, retry_after_s=3600)
            await stage.deliver(ada, stage.staged(ada))
            async with asyncio.timeout(WITHIN_S):
                while "503" not in (await stage.look(ada))[0].why:
                    await asyncio.sleep(0.02)
                await stage.transferring.transfers(AskTransfers(), stage.asking(ada, "-anew"))
                while not stage.arrived:
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_what_is_no_destination_or_too_much_is_said(transfers: Transfers, tmp_path: Path) -> None:
    async def scenario() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path) as stage:
            both = stage.staged(ada), stage.staged(ada, "s.h5")
            with pytest.raises(InvalidInput, match="slash"):
                await stage.deliver(ada, *both, to=f"globus://{transfers.laptop.id}/in/one.h5")
            with pytest.raises(InvalidInput, match="UUID"):
                await stage.deliver(ada, *both, to="globus://laptop/in/")
            with pytest.raises(InvalidInput, match="from 1 to"):
                await stage.deliver(ada)

    asyncio.run(scenario())


def test_where_no_result_can_come_is_said_before_one_is_computed_and_before_it_travels(
    transfers: Transfers, tmp_path: Path
) -> None:
    laptop = transfers.laptop
    (laptop.root / "results").mkdir()
    (laptop.root / "notes").touch()
    nowhere = "5f2a1c1e-0000-4000-8000-000000000000"
    wrong = {
        f"globus://{laptop.id}/results": f"a directory is there; let it end with a slash: globus://{laptop.id}/results/",
        f"globus://{laptop.id}/notes/": "a file is there, and no directory",
        f"globus://{nowhere}/in/": "no result can come there: Globus Transfer: EndpointNotFound",
    }

    async def scenario() -> None:
        async with staged_service(transfers, tmp_path) as stage:
            ada = transfers.setting.person
            path = stage.staged(ada)

            async def look(to: str) -> object:
                return await stage.transferring.destination(AskDestination(to=to), stage.asking(ada))

            for to, why in wrong.items():
                with pytest.raises(InvalidInput) as early:
                    await look(to)
                assert why in str(early.value)
                with pytest.raises(InvalidInput) as late:
                    await stage.deliver(ada, path, to=to)
                assert why in str(late.value)
                assert f"the result is in {path} on the site" in str(late.value)
            assert await stage.look(ada) == ()
            laptop.trouble.offline = True  # nothing can be seen, and nothing is refused
            for to in (f"globus://{laptop.id}/results", f"globus://{laptop.id}/new/"):
                await look(to)
            laptop.trouble.offline = False
            for place in ("results/", "notes", "new/"):
                await look(f"globus://{laptop.id}/{place}")

    asyncio.run(scenario())


def test_a_result_travels_when_its_rule_is_in_force(transfers: Transfers, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged_service(transfers, tmp_path) as stage:
            ada = transfers.setting.person
            denied = {"code": "EndpointPermissionDenied", "message": "Denied by endpoint"}
            pattern = f"GET /v0.10/operation/endpoint/{stage.guest.id}/stat"
            transfers.setting.globus.faults.add(pattern, 403, times=3, body=denied)
            await stage.deliver(ada, stage.staged(ada))
            async with asyncio.timeout(WITHIN_S):
                while not (await stage.look(ada))[0].why:
                    await asyncio.sleep(0.01)
                waits = (await stage.look(ada))[0]
                assert "not in force yet" in waits.why
                assert waits.until_s is not None
                assert abs(waits.until_s - time.time() - stage.site.staging.transfer_faults_s) < WITHIN_S
                while not stage.arrived:
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_what_arrives_damaged_each_time_is_given_up_when_it_was_told_and_counts_once(
    transfers: Transfers, tmp_path: Path
) -> None:
    async def scenario() -> None:
        transfers.laptop.trouble.corrupt = -1
        queue = transfers.setting.globus.transfer.queue
        queue.checksum_faults, queue.retry_s = 1_000_000, 0.2
        async with staged_service(transfers, tmp_path, transfer_faults_s=3.0) as stage:
            ada, promised = transfers.setting.person, set[float]()
            await stage.deliver(ada, stage.staged(ada))
            async with asyncio.timeout(WITHIN_S):
                while (seen := (await stage.look(ada))[0]).state != "failed":
                    assert seen.task_bytes <= seen.task_bytes_in_all
                    promised |= set() if seen.until_s is None else {seen.until_s}
                    await asyncio.sleep(0.02)
            assert "VERIFY_CHECKSUM" in seen.why
            assert len(promised) == 1, "each fault is the same one"
            assert seen.ended_s is not None
            assert seen.ended_s >= max(promised)

    asyncio.run(scenario())


def test_a_service_with_keys_transfers_nothing(transfers: Transfers, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged_service(transfers, tmp_path) as stage:
            without = Transferring(stage.site, Guard(stage.site), None)
            with pytest.raises(Conflict, match="transfers nothing"):
                await without.transfers(AskTransfers(), stage.asking(transfers.setting.person))

    asyncio.run(scenario())
