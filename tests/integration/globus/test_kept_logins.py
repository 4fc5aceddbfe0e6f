"""Logins that are kept until all is delivered: one for each owner, of the newest login, and none afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hpcserve.core.claims import Rules
from hpcserve.core.delivery import Trouble
from hpcserve.daemon.controller import arrivals
from hpcserve.registry.deliveries import kept_logins
from hpcserve.staging.transfer import GlobusTransfer
from hpcserve.testing.globus.records import TRANSFER_ALL, Token
from tests.integration.globus.delivering import DIGEST, LIMITS, Service
from tests.integration.globus.test_deliveries import delivery, in_a_loop, rules, states, token
from tests.integration.globus.transfers import Transfers

__all__ = ["rules"]  # a fixture

ANOTHER = "of-another"


def kept(transfers: Transfers) -> list[Token]:
    """The refresh tokens that the service ever got."""
    service = transfers.setting.service.id
    return [each for each in transfers.setting.world.tokens.values() if each.refresh and each.client_id == service]


def good(transfers: Transfers) -> int:
    return sum(each.active for each in kept(transfers))


@in_a_loop
async def test_several_tasks_at_once_keep_one(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    limits = LIMITS._replace(batch_files=1)
    async with Service(tmp_path, rules, token(transfers, offline=True), limits=limits) as service:
        service.log_in(service.token)
        await service.wallet.may_keep("ada")
        await service.deliveries.ask([delivery(transfers, f"{number}.h5") for number in range(3)])
        assert states(await service.ended()) == ["succeeded"] * 3
        await service.until(lambda: kept(transfers) and not good(transfers))
        assert len(kept(transfers)) == 1


@in_a_loop
async def test_one_that_is_granted_while_a_place_is_looked_at_is_not_lost(
    transfers: Transfers, rules: Rules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "LOOK_S", 0.0)  # what it limits is cut off at once
    async with Service(tmp_path, rules, token(transfers, offline=True)) as service:
        service.log_in(service.token)
        await service.wallet.may_keep("ada")
        looking = arrivals.Arrivals(
            service.wallet.token, service.outside, lambda token: GlobusTransfer(token, deadline_s=3600.0)
        )
        await looking.check("ada", f"globus://{transfers.laptop.id}/in/")
        [row] = await service.storage.do(kept_logins)
        assert row.sealed
        await service.wallet.done("ada", lambda: True)
        assert (len(kept(transfers)), good(transfers)) == (1, 0)


@in_a_loop
async def test_who_agrees_while_the_one_before_is_revoked_is_not_overheard(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    faults = transfers.setting.globus.faults
    async with Service(tmp_path, rules, token(transfers, offline=True)) as service:
        service.log_in(service.token)
        await service.wallet.may_keep("ada")
        await service.wallet.token("ada")
        assert good(transfers) == 1
        faults.stall("POST /v2/oauth2/token/revoke", 60.0)
        ending = asyncio.create_task(service.wallet.done("ada", lambda: True))
        await service.until(lambda: faults.asked["POST /v2/oauth2/token/revoke"])
        agreed = asyncio.create_task(service.wallet.may_keep("ada"))
        faults.clear()
        await asyncio.gather(ending, agreed)
        assert not good(transfers)
        await service.wallet.token("ada")
        assert good(transfers) == 1
        await service.wallet.done("ada", lambda: False)  # something new is under way by now
        assert good(transfers) == 1


@in_a_loop
async def test_who_agreed_before_a_restart_has_agreed(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    transfers.laptop.trouble.offline = True
    async with Service(tmp_path, rules, "") as service:  # no token comes before it ends
        service.wallet.seen("ada", DIGEST)
        await service.wallet.may_keep("ada")
        await service.deliveries.ask([delivery(transfers, "a.h5")])
    async with Service(tmp_path, rules, token(transfers, offline=True)) as service:
        await service.until(lambda: service.deliveries.book.deliveries()[0].task)
        assert good(transfers) == 1
    transfers.laptop.trouble.offline = False
    async with Service(tmp_path, rules, "") as service:
        assert states(await service.ended()) == ["succeeded"]
        await service.until(lambda: not good(transfers))


@in_a_loop
async def test_nothing_is_kept_for_who_has_nothing_under_way_after_a_restart(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    async with Service(tmp_path, rules, token(transfers, offline=True)) as service:
        service.log_in(service.token)
        await service.until(lambda: True)
        await service.wallet.may_keep("ada")
        await service.wallet.token("ada")
        assert good(transfers) == 1
    async with Service(tmp_path, rules, "") as service:
        await service.until(lambda: not good(transfers))


@in_a_loop
async def test_a_newer_login_takes_the_place_of_one_that_does_not_do(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    world = transfers.setting.world
    async with Service(tmp_path, rules, token(transfers, offline=True)) as service:
        service.log_in(service.token)
        await service.wallet.may_keep("ada")
        first = await service.wallet.token("ada")
        wanted = Trouble("login", "MFA", detail={"authorization_parameters": {"session_required_mfa": True}})
        asked = service.wallet.refused("ada", wanted)
        assert asked.detail is not None
        assert asked.detail["authorization_parameters"]["session_required_mfa"] is True
        still = await service.wallet.token("ada")  # by what is kept, until there is another
        assert world.tokens[still].session.id == world.tokens[first].session.id
        world.sign_in(transfers.setting.person, mfa=True)
        scope = f"{transfers.setting.scope}[{TRANSFER_ALL}[*{transfers.facility.data_access}]]"
        service.wallet.seen("ada", ANOTHER)
        service.log_in(transfers.setting.token(scope, offline=True))
        service.wallet.seen("ada", ANOTHER)
        newest = await service.wallet.token("ada")
        assert world.tokens[newest].session.authentications[transfers.setting.person.id].with_mfa
        assert (len(kept(transfers)), good(transfers)) == (2, 1), "the older one is revoked"
        await service.wallet.done("ada", lambda: True)
        assert not good(transfers)
