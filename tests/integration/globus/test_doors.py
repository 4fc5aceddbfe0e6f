"""What keeps the service from its own work: a token of its own that has ended, a Globus that stalls, a full disk."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hpcserve.auth.grants import Grants
from hpcserve.core.claims import Rules
from hpcserve.core.sitepaths import Collection
from hpcserve.daemon.controller.doors import Doors
from hpcserve.daemon.controller.outside import AT_ONCE, Outside
from hpcserve.errors import StorageFull
from hpcserve.registry.deliveries import deliveries
from hpcserve.testing.globus.collections import Collection as Shown
from hpcserve.testing.globus.collections import Kind
from tests.integration.globus.delivering import LIMITS, NoDoors, Service
from tests.integration.globus.setting import SECRET
from tests.integration.globus.test_deliveries import delivery, in_a_loop, rules, states, token
from tests.integration.globus.test_kept_logins import good, kept
from tests.integration.globus.transfers import WITHIN_S, Transfers

__all__ = ["rules"]  # a fixture

OWNERS = [f"00000000-0000-4000-8000-{number:012}" for number in range(3)]


def guest_of(transfers: Transfers, place: Path) -> Shown:
    setting = transfers.setting
    (place / "staged").mkdir()
    return setting.globus.collections.open(
        "results", setting.service.id, Kind.GUEST, root=place / "staged", host=transfers.facility.id
    )


def doors_of(guest: Shown, rules: Rules, place: Path) -> Doors:
    collections = [Collection(guest.id, str(place / "staged"), "guest")]
    return Doors(str(place / "staged"), collections, Grants(rules, SECRET).own, Outside())


def end_own_tokens(transfers: Transfers) -> None:
    world = transfers.setting.world
    for each in list(world.tokens.values()):
        if each.sub == transfers.setting.service.id:
            world.expire(each.value)


@in_a_loop
async def test_a_token_of_the_service_that_ended_early_is_replaced(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    guest = guest_of(transfers, tmp_path)
    doors = doors_of(guest, rules, tmp_path)
    await doors.let_in(OWNERS[0], guest.id)
    end_own_tokens(transfers)
    await doors.let_in(OWNERS[1], guest.id)
    end_own_tokens(transfers)
    await doors.let_out(OWNERS[0], lambda: True)
    assert [rule.principal for rule in guest.rules.values()] == [OWNERS[1]]


@in_a_loop
async def test_a_service_that_globus_does_not_know_is_not_its_user_s_fault(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    guest = guest_of(transfers, tmp_path)
    transfers.setting.globus.faults.add(f"GET /v0.10/endpoint/{guest.id}/access_list", 401, times=None)
    async with Service(
        tmp_path, rules, token(transfers), doors=Always(doors_of(guest, rules, tmp_path), guest)
    ) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: "the operator" in service.deliveries.book.deliveries()[0].why)
        assert service.deliveries.book.login("id-a.h5") is None
        transfers.setting.globus.faults.clear()
        assert states(await service.ended()) == ["succeeded"]


class Always:
    """Wants a rule whatever the collection."""

    def __init__(self, doors: Doors, guest: Shown) -> None:
        self._doors = doors
        self._guest = guest

    async def let_in(self, owner: str, _collection: str) -> None:
        await self._doors.let_in(OWNERS[0], self._guest.id)

    async def let_out(self, owner: str, is_idle: Any) -> None:
        await self._doors.let_out(OWNERS[0], is_idle)


@in_a_loop
async def test_one_whose_rule_is_slow_delays_nobody_else(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    guest, faults = guest_of(transfers, tmp_path), transfers.setting.globus.faults
    doors = doors_of(guest, rules, tmp_path)
    await doors.let_in(OWNERS[0], guest.id)
    faults.stall(f"GET /v0.10/endpoint/{guest.id}/access_list", 60.0)
    slow = asyncio.create_task(doors.let_in(OWNERS[1], guest.id))
    async with asyncio.timeout(WITHIN_S):
        while faults.asked[f"GET /v0.10/endpoint/{guest.id}/access_list"] < 2:
            await asyncio.sleep(0.01)
        await doors.let_in(OWNERS[2], guest.id)
    assert not slow.done()
    faults.clear()
    await slow


class Stuck(NoDoors):
    """Globus does not answer whoever wants to take a rule back."""

    def __init__(self) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def let_out(self, _owner: str, _is_idle: Any) -> None:
        self.asked.set()
        await self.answers.wait()


@in_a_loop
async def test_a_rule_that_is_slow_to_go_delays_no_delivery(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    doors = Stuck()
    async with Service(tmp_path, rules, token(transfers), doors=doors) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(doors.asked.is_set)
        await service.deliveries.ask([delivery(transfers, "b.h5")])
        await service.until(lambda: service.arrived == ["a.h5", "b.h5"])
        doors.answers.set()


@in_a_loop
async def test_an_auth_that_stalls_holds_up_nothing_else(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    faults, began = transfers.setting.globus.faults, time.monotonic()
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        faults.stall("POST /v2/oauth2/token$", 60.0, times=None)
        waiting = []
        for number in range(3 * AT_ONCE):
            service.wallet.seen(f"owner-{number}", "of-the-token")
            waiting.append(asyncio.create_task(service.wallet.token(f"owner-{number}")))
        await service.until(lambda: faults.asked["POST /v2/oauth2/token"] >= AT_ONCE)
        await asyncio.to_thread(time.monotonic)  # anything else that the controller has a thread do
        assert not any(each.done() for each in waiting), f"after {time.monotonic() - began} s"
        faults.clear()
        await asyncio.gather(*waiting, return_exceptions=True)


def test_each_thread_asks_by_connections_of_its_own(transfers: Transfers, rules: Rules) -> None:
    del transfers  # whose environment says where Auth is
    grants, together = Grants(rules, SECRET), threading.Barrier(2)

    def session_of() -> object:
        together.wait(WITHIN_S)
        assert grants.own().access_token
        return grants._client.transport.session

    with ThreadPoolExecutor(2) as threads:
        first, second = [each.result() for each in [threads.submit(session_of) for _ in range(2)]]
    assert first is not second


@in_a_loop
async def test_what_cannot_be_written_down_when_it_arrives_is_made_up_for(
    transfers: Transfers, rules: Rules, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("hpcserve.daemon.controller.deliveries.WRITTEN_AGAIN_S", 0.1)
    async with Service(tmp_path, rules, token(transfers, offline=True), limits=LIMITS) as service:
        full = [False]
        do = service.storage.do

        async def refuse(method: Any, *args: Any, **kwargs: Any) -> Any:
            if full[0] and method.__name__ == "put_deliveries":
                raise StorageFull("no space left on device")
            return await do(method, *args, **kwargs)

        monkeypatch.setattr(service.storage, "do", refuse)
        service.log_in(service.token)
        await service.wallet.may_keep("ada")
        transfers.laptop.trouble.stalled = True
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.deliveries()[0].task)
        full[0], transfers.laptop.trouble.stalled = True, False
        assert states(await service.ended()) == ["succeeded"]
        assert (service.arrived, good(transfers)) == ([], 1)
        full[0] = False
        await service.until(lambda: service.arrived == ["a.h5"] and kept(transfers) and not good(transfers))
        [row] = await do(deliveries)
        assert row.state == "succeeded"
