"""Deliveries on good and bad days: a real store, the real globus_sdk, the loopback stand-in."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec

import pytest

from hpcserve.core.claims import Rules
from hpcserve.core.delivery import Delivery, End, Trouble
from hpcserve.core.faults import AT_ONCE
from hpcserve.registry.deliveries import DeliveryRow, put_deliveries
from hpcserve.staging.transfer import GlobusTransfer, StepFailed
from hpcserve.testing.globus.records import TRANSFER_ALL
from tests.integration.globus.delivering import DIGEST, LIMITS, WITHIN_S, Service
from tests.integration.globus.transfers import Transfers

P = ParamSpec("P")


def in_a_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Runs a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def rules(transfers: Transfers) -> Rules:
    setting = transfers.setting
    return Rules(
        client_id=setting.service.id,
        login_client_id=setting.native.id,
        scope=setting.scope,
        issuer=setting.world.issuer,
    )


def token(transfers: Transfers, *, offline: bool = False) -> str:
    """Of a login in which Ada consents that the service transfers for her, from the facility too."""
    scope = f"{transfers.setting.scope}[{TRANSFER_ALL}[*{transfers.facility.data_access}]]"
    return transfers.setting.token(scope, offline=offline)


def delivery(transfers: Transfers, name: str, size: int = 2000) -> Delivery:
    transfers.write(f"/staged/ada/{name}", size)
    source = End(transfers.facility.id, f"/staged/ada/{name}")
    return Delivery(f"id-{name}", "ada", name, source, End(transfers.laptop.id, f"/in/{name}"), size, time.time())


def tasks(transfers: Transfers) -> int:
    return len(transfers.client().task_list().data["DATA"])


async def served(service: Service, *wanted: Delivery) -> list[Delivery]:
    await service.deliveries.ask(wanted)
    return await service.ended()


def states(found: list[Delivery]) -> list[str]:
    return [each.state for each in found]


@in_a_loop
async def test_results_arrive_in_one_task(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    wanted = [delivery(transfers, f"{number}.h5") for number in range(5)]
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        assert states(await served(service, *wanted)) == ["succeeded"] * 5
        await service.until(lambda: sorted(service.arrived) == [f"{number}.h5" for number in range(5)])
    assert tasks(transfers) == 1
    for each in wanted:
        assert (
            transfers.arrived(each.target.path).read_bytes()
            == (transfers.facility.root / each.source.path.lstrip("/")).read_bytes()
        )


@pytest.mark.parametrize("where", ["after-prepare", "before-submit", "after-submit", "after-look"])
@in_a_loop
async def test_killed_anywhere_there_is_one_task_and_none_is_forgotten(
    transfers: Transfers, rules: Rules, tmp_path: Path, where: str
) -> None:
    (tmp_path / "login").write_text(f"{rules.client_id} {rules.scope} {token(transfers)}")
    async with Service(tmp_path, rules, "") as service:  # nobody is in: it is written down, and waits
        service.wallet.seen("ada", DIGEST)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.deliveries()[0].why)
    for expected in (-signal.SIGKILL, 0):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.globus.delivering", str(tmp_path)),
            where if expected else "nowhere",
            env=dict(os.environ),
        )
        assert await asyncio.wait_for(process.wait(), 60.0) == expected
    assert tasks(transfers) == 1
    assert transfers.arrived("/in/a.h5").exists()


@pytest.mark.parametrize("status", [429, 502, 503])
@in_a_loop
async def test_a_busy_globus_delays_and_does_no_more(
    transfers: Transfers, rules: Rules, tmp_path: Path, status: int
) -> None:
    faults = transfers.setting.globus.faults
    for pattern in ("GET /v0.10/submission_id", "POST /v0.10/transfer", "GET /v0.10/task/", "POST /v2/oauth2/token"):
        faults.add(pattern, status, times=2)
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        assert states(await served(service, delivery(transfers, "a.h5"))) == ["succeeded"]
    assert tasks(transfers) == 1


@in_a_loop
async def test_a_task_whose_answer_was_lost_is_found_though_globus_refuses_everything_for_long(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    faults = transfers.setting.globus.faults
    faults.add("POST /v0.10/transfer", 502, after=True)
    faults.add("POST /v0.10/transfer", 503, times=None)
    async with Service(tmp_path, rules, token(transfers), limits=LIMITS._replace(faults_s=0.3)) as service:
        service.log_in(service.token)
        assert states(await served(service, delivery(transfers, "a.h5"))) == ["succeeded"]
    assert tasks(transfers) == 1


@in_a_loop
async def test_ids_that_are_never_good_fail_after_a_time_and_few_calls(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    faults = transfers.setting.globus.faults
    refusal = {"code": "ClientError.BadRequest", "message": "the submission id has expired"}
    faults.add("POST /v0.10/transfer", 400, times=None, body=refusal)
    async with Service(tmp_path, rules, token(transfers), limits=LIMITS._replace(faults_s=2.0)) as service:
        service.log_in(service.token)
        (found,) = await served(service, delivery(transfers, "a.h5"))
    assert (found.state, "has expired" in found.why) == ("failed", True)
    assert faults.asked["POST /v0.10/transfer"] < 40


@in_a_loop
async def test_a_consent_is_asked_for_and_it_goes_on_after_it(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    plain = transfers.setting.token(f"{transfers.setting.scope}[{TRANSFER_ALL}]")
    async with Service(tmp_path, rules, plain) as service:
        service.log_in(plain)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.login("id-a.h5"))
        asked = service.deliveries.book.login("id-a.h5")
        assert asked is not None
        scopes = asked["authorization_parameters"]["required_scopes"]
        again = transfers.setting.token(scopes[0])
        service.wallet.seen("ada", "of-another")
        service.log_in(again)
        assert states(await service.ended()) == ["succeeded"]


@in_a_loop
async def test_without_any_consent_to_transfers_a_login_is_asked_for(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    async with Service(tmp_path, rules, transfers.setting.token()) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.login("id-a.h5"))
        asked = service.deliveries.book.login("id-a.h5")
        assert asked is not None
        assert asked["authorization_parameters"]["required_scopes"] == [f"{rules.scope}[{TRANSFER_ALL}]"]
        assert asked["client_id"] == transfers.setting.native.id


@in_a_loop
async def test_tokens_expire_in_the_middle(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    transfers.laptop.trouble.stalled = True
    world = transfers.setting.world
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.deliveries()[0].state == "active")
        for each in list(world.tokens.values()):
            world.expire(each.value)
        await service.until(lambda: service.deliveries.book.deliveries()[0].state == "inactive")
        transfers.laptop.trouble.stalled = False
        service.wallet.seen("ada", "of-another")
        service.log_in(token(transfers))
        assert states(await service.ended()) == ["succeeded"]
    assert tasks(transfers) == 1


@in_a_loop
async def test_an_inactive_task_asks_for_a_login_and_goes_on_with_a_newer_token(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    transfers.laptop.trouble.stalled = True
    faults = transfers.setting.globus.faults
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.deliveries()[0].state == "active")
        faults.add("POST /v2/oauth2/token$", 503, times=None)
        transfers.facility.trouble.expired = True
        transfers.laptop.trouble.stalled = False
        await service.until(lambda: service.deliveries.book.deliveries()[0].state == "inactive")
        asked = service.deliveries.book.login("id-a.h5")
        assert asked is not None
        assert asked["authorization_parameters"]["required_scopes"] == [f"{rules.scope}[{TRANSFER_ALL}]"]
        faults.clear()
        assert states(await service.ended()) == ["succeeded"]


@in_a_loop
async def test_no_login_is_asked_for_while_one_is_renewed(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    transfers.laptop.trouble.stalled = True
    transfers.setting.world.lifetime_s = 30  # so short that each step takes a new token
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.deliveries()[0].state == "active")
        service.token = ""  # it has ended, and the client is about to come with the next one
        await service.until(lambda: "being renewed" in service.deliveries.book.deliveries()[0].why)
        assert states(service.deliveries.book.deliveries()) == ["active"]
        transfers.laptop.trouble.stalled = False
        service.log_in(token(transfers))
        assert states(await service.ended()) == ["succeeded"]


@in_a_loop
async def test_a_service_that_has_just_started_asks_nobody_to_log_in_who_comes_by_himself(
    transfers: Transfers, rules: Rules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Service(tmp_path, rules, "") as service:
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.deliveries()[0].why)
        assert "has just started" in service.deliveries.book.deliveries()[0].why
        assert service.deliveries.book.login("id-a.h5") is None
        monkeypatch.setattr("hpcserve.daemon.controller.wallet.RENEWED_S", 0.0)
        await service.until(lambda: service.deliveries.book.login("id-a.h5"))
        assert "nobody is logged in" in service.deliveries.book.deliveries()[0].why
        service.log_in(token(transfers))
        assert states(await service.ended()) == ["succeeded"]


@in_a_loop
async def test_a_token_that_ends_on_its_way_to_auth_is_no_reason_for_a_login(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    world = transfers.setting.world
    ended = token(transfers)
    world.expire(ended)  # though the service still takes it for good
    async with Service(tmp_path, rules, ended) as service:
        service.log_in(ended)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: "being renewed" in service.deliveries.book.deliveries()[0].why)
        assert service.deliveries.book.login("id-a.h5") is None
        service.wallet.seen("ada", "of-another")
        service.log_in(token(transfers))
        assert states(await service.ended()) == ["succeeded"]


@in_a_loop
async def test_what_was_begun_with_the_login_before_asks_for_none(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    begun, released = threading.Event(), threading.Event()

    class Slow(GlobusTransfer):
        """Globus refuses the first step after a while: a consent is missing."""

        def submission_id(self) -> str:
            if begun.is_set():
                return super().submission_id()
            begun.set()
            assert released.wait(WITHIN_S)
            raise StepFailed(Trouble("login", "ConsentRequired", detail={"authorization_parameters": {}}))

    async with Service(tmp_path, rules, token(transfers), carrier=lambda by: Slow(by, deadline_s=3600.0)) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(begun.is_set)
        service.wallet.seen("ada", "of-another")
        service.log_in(token(transfers))
        released.set()
        wanted = []

        def has_ended() -> bool:
            (found,) = service.deliveries.book.deliveries()
            wanted.append(service.deliveries.book.login(found.id))
            return found.ended

        await service.until(has_ended)
        assert not any(wanted)


@in_a_loop
async def test_a_kept_login_outlives_the_daemon_and_is_revoked_at_the_end(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    world = transfers.setting.world
    transfers.laptop.trouble.offline = True
    async with Service(tmp_path, rules, token(transfers, offline=True)) as service:
        service.log_in(service.token)
        await service.wallet.may_keep("ada")
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: service.deliveries.book.deliveries()[0].state == "active")
    kept = [each for each in world.tokens.values() if each.refresh and each.client_id == transfers.setting.service.id]
    assert kept
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert not any(each.value.encode() in stored for each in world.tokens.values())
    assert (tmp_path / "seal.key").stat().st_mode & 0o777 == 0o600
    transfers.laptop.trouble.offline = False
    async with Service(tmp_path, rules, "") as service:  # Ada is away
        assert states(await service.ended()) == ["succeeded"]
        await service.until(lambda: not any(world.tokens[each.value].active for each in kept))


@in_a_loop
async def test_two_programs_of_one_owner_are_no_new_login_each_time(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    async with Service(tmp_path, rules, token(transfers)) as service:
        told = [service.wallet.seen("ada", digest) for digest in (DIGEST, "of-another", DIGEST, "of-another")]
        assert told == [True, True, False, False]
        # The other one has gone meanwhile: the first still is in.
        assert states(await served(service, delivery(transfers, "a.h5"))) == ["succeeded"]


@in_a_loop
async def test_without_consent_no_login_is_kept(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    async with Service(tmp_path, rules, token(transfers, offline=True)) as service:
        service.log_in(service.token)
        await served(service, delivery(transfers, "a.h5"))
    tokens = transfers.setting.world.tokens.values()
    assert not any(each.refresh and each.client_id == transfers.setting.service.id for each in tokens)


@in_a_loop
async def test_after_a_restart_owners_have_their_time_to_submit_what_was_offered(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    offered = replace(delivery(transfers, "a.h5"), state="offered", submission="handed out")
    async with Service(tmp_path, rules, "") as service:
        await service.storage.do(put_deliveries, [DeliveryRow.made(offered, DIGEST)])
    began_s = service.deliveries.now()
    async with Service(tmp_path, rules, "") as service:
        shipment = service.deliveries.book.shipment_of(offered.id)
        assert shipment is not None
        assert began_s <= shipment.handed_until - LIMITS.hand_s <= service.deliveries.now()


@in_a_loop
async def test_a_full_destination_and_one_that_spoils_files(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    transfers.laptop.trouble.quota_bytes = 10
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        (full,) = await served(service, delivery(transfers, "a.h5"))
        transfers.laptop.trouble.quota_bytes, transfers.laptop.trouble.corrupt = None, -1
        _, spoilt = await served(service, delivery(transfers, "b.h5"))
    assert [(each.state, each.why.split(": ")[:2]) for each in (full, spoilt)] == [
        ("failed", ["Globus Transfer", "QUOTA_EXCEEDED"]),
        ("failed", ["Globus Transfer", "VERIFY_CHECKSUM"]),
    ]
    assert full.why.endswith("; make room there, or choose another place")


@in_a_loop
async def test_an_unwritable_destination_ends_at_once(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    transfers.laptop.trouble.read_only = True
    async with Service(tmp_path, rules, token(transfers), limits=LIMITS._replace(faults_s=3600.0)) as service:
        service.log_in(service.token)
        (found,) = await served(service, delivery(transfers, "a.h5"))
    assert (found.state, "PERMISSION_DENIED" in found.why) == ("failed", True)
    assert found.why.endswith(AT_ONCE["PERMISSION_DENIED"])
    assert transfers.client().get_task(found.task)["status"] == "FAILED"


@in_a_loop
async def test_what_goes_elsewhere_arrives_though_it_travelled_with_what_is_refused(
    transfers: Transfers, rules: Rules, tmp_path: Path
) -> None:
    transfers.arrived("in").mkdir()
    transfers.arrived("in").joinpath("a.h5").mkdir()
    one, other = delivery(transfers, "a.h5"), delivery(transfers, "b.h5")
    other = replace(other, target=End(transfers.laptop.id, "/elsewhere/b.h5"))
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        refused, arrived = await served(service, one, other)
    assert (refused.state, "IS_A_DIRECTORY" in refused.why) == ("failed", True)
    assert (arrived.state, transfers.arrived("elsewhere/b.h5").exists()) == ("succeeded", True)


@in_a_loop
async def test_a_destination_that_is_not_there(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    wanted = delivery(transfers, "a.h5")
    nowhere = Delivery(
        "id", "ada", wanted.name, wanted.source, End("5f2a1c1e-0000-4000-8000-000000000000", "/a"), 1, time.time()
    )
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        (found,) = await served(service, nowhere)
    assert (found.state, "Globus Transfer: " in found.why) == ("failed", True)


@in_a_loop
async def test_an_offline_laptop_is_waited_for(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    transfers.laptop.trouble.offline = True
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, "a.h5")])
        await service.until(lambda: "GC_NOT_CONNECTED" in service.deliveries.book.deliveries()[0].why)
        transfers.laptop.trouble.offline = False
        assert states(await service.ended()) == ["succeeded"]


@in_a_loop
async def test_one_is_cancelled(transfers: Transfers, rules: Rules, tmp_path: Path) -> None:
    transfers.laptop.trouble.stalled = True
    async with Service(tmp_path, rules, token(transfers)) as service:
        service.log_in(service.token)
        await service.deliveries.ask([delivery(transfers, name) for name in ("a.h5", "b.h5")])
        await service.until(lambda: service.deliveries.book.deliveries()[0].state == "active")
        await service.deliveries.cancel("id-a.h5")
        await service.until(lambda: service.deliveries.book.deliveries()[0].ended)
        transfers.laptop.trouble.stalled = False
        assert states(await service.ended()) == ["cancelled", "succeeded"]
