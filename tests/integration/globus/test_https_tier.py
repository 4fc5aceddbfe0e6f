"""Staged results by HTTPS, from a guest collection of the service: with a token of the caller's, and whole."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, cast

import h5py
import numpy as np
import pytest

from hpcserve.client import https, sending
from hpcserve.client.fetching import Fetching
from hpcserve.client.https import ByHttps
from hpcserve.errors import (
    Conflict,
    LoginRequired,
    PermissionDenied,
    ServiceUnavailable,
    StagedFileGone,
    TransferFailed,
)
from hpcserve.staging.https import download
from hpcserve.testing.globus.records import TRANSFER_ALL
from hpcserve.testing.globus.tls import make_certificates, server_context
from hpcserve.types import Counter, SessionId
from hpcserve.wire.admin import AskHttps
from hpcserve.wire.messages import Result, Staged, StagedTensor
from tests.integration.globus.delivering import WITHIN_S
from tests.integration.globus.test_transferring import Stage, staged_service
from tests.integration.globus.transfers import Transfers

if TYPE_CHECKING:
    from hpcserve.client.sending import Ask

X = np.random.default_rng(1).random(400_000)


def result_of(stage: Stage, name: str = "r.h5") -> Staged:
    """A staged result of Ada's."""
    path = stage.staged(stage.transfers.setting.person, name)
    with h5py.File(path, "w") as file:
        file["y"] = X
    tensor = StagedTensor("y", "float64", X.shape, "/y", hashlib.sha256(X.tobytes()).hexdigest())
    return Staged(path, Path(path).stat().st_size, (tensor,))


def fetching(
    transfers: Transfers,
    place: Path,
    scenario: Callable[[Stage, Staged, Callable[[], Path | None]], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Runs a scenario, which fetches."""

    def fetches(stage: Stage, staged: Staged, ask: Ask) -> None:
        scenario(stage, staged, lambda: ByHttps(ask).fetch(staged))

    asking(transfers, place, fetches, monkeypatch)


def asking(
    transfers: Transfers,
    place: Path,
    scenario: Callable[[Stage, Staged, Ask], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Runs a scenario in a thread, as a client's is; its calls are answered by the service's loop."""
    monkeypatch.setenv("GLOBUS_SDK_VERIFY_SSL", transfers.setting.ca)

    async def run() -> None:
        async with staged_service(transfers, place, https=True) as stage:
            loop = asyncio.get_running_loop()
            ada = transfers.setting.person

            def ask(verb: str, arguments: Any, _answer: type[Any]) -> Any:
                assert verb == "https"
                return asyncio.run_coroutine_threadsafe(
                    stage.transferring.fetches.https(arguments, stage.asking(ada)), loop
                ).result()

            staged = result_of(stage)
            await asyncio.to_thread(scenario, stage, staged, cast("Ask", ask))

    asyncio.run(run())


def test_a_result_comes_whole_over_a_line_that_breaks(
    transfers: Transfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario(stage: Stage, _staged: Staged, fetch: Callable[[], Path | None]) -> None:
        stage.guest.trouble.cut = 2
        path = fetch()
        assert path is not None
        with h5py.File(path) as file:
            assert np.array_equal(file["y"][()], X)
        [rule] = stage.guest.rules.values()
        assert rule.path == f"/{transfers.setting.person.id}/"
        stage.guest.trouble.corrupt = 1
        assert fetch() is not None, "fetched once more"
        stage.guest.trouble.corrupt = -1
        with pytest.raises(TransferFailed, match="arrived damaged: what came"):
            fetch()

    fetching(transfers, tmp_path, scenario, monkeypatch)


def test_the_rule_is_there_until_the_last_fetch_has_ended(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path, https=True) as stage:
            paths = [result_of(stage, name).path for name in ("a.h5", "b.h5")]
            for path in paths:
                await stage.transferring.fetches.https(AskHttps(path=path), stage.asking(ada))
            await stage.transferring.fetched(ada.id, [paths[0]])
            assert [rule.path for rule in stage.guest.rules.values()] == [f"/{ada.id}/"]
            await stage.deliver(ada, stage.staged(ada, "c.h5"))  # which takes the rule back when it has arrived
            async with asyncio.timeout(WITHIN_S):
                while not (await stage.look(ada))[0].ended_s or not stage.arrived:
                    await asyncio.sleep(0.02)
            assert stage.guest.rules
            await stage.transferring.fetched(ada.id, [paths[1]])
            assert not stage.guest.rules

    asyncio.run(run())


def test_what_failed_at_first_keeps_no_rule(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path, https=True) as stage:
            path = result_of(stage).path
            transfers.setting.globus.faults.add(f"GET /v0.10/endpoint/{stage.guest.id}$", 503, times=None)
            with pytest.raises(ServiceUnavailable):
                await stage.transferring.fetches.https(AskHttps(path=path), stage.asking(ada))
            transfers.setting.globus.faults.clear()
            for _ in range(2):  # what came was damaged
                await stage.transferring.fetches.https(AskHttps(path=path), stage.asking(ada))
            assert stage.guest.rules
            await stage.transferring.fetched(ada.id, [path])
            assert not stage.guest.rules

    asyncio.run(run())


def test_a_time_in_which_globus_is_busy_passes(
    transfers: Transfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario(_stage: Stage, _staged: Staged, fetch: Callable[[], Path | None]) -> None:
        faults = transfers.setting.globus.faults
        faults.add("GET /v0.10/endpoint/", 503, times=1)
        faults.add("POST /v2/oauth2/token", 503, times=4)
        assert fetch() is not None

    monkeypatch.setattr(sending, "LONGEST_LOOK_S", 0.05)
    fetching(transfers, tmp_path, scenario, monkeypatch)


def test_a_token_of_the_service_s_that_has_ended_is_replaced(
    transfers: Transfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario(_stage: Stage, _staged: Staged, fetch: Callable[[], Path | None]) -> None:
        setting = transfers.setting
        assert fetch() is not None
        for each in list(setting.world.tokens.values()):
            if each.client_id == setting.service.id and each.sub == setting.person.id:
                setting.world.expire(each.value)
        assert fetch() is not None
        setting.globus.faults.add("GET /v0.10/endpoint/", 403, times=1)
        assert fetch() is None, "no HTTPS, and nothing that would be better later"

    monkeypatch.setattr(https, "AWAY_S", 5.0)
    fetching(transfers, tmp_path, scenario, monkeypatch)


def test_what_has_come_is_told_of_also_where_it_is_left_in_its_file(
    transfers: Transfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario(_stage: Stage, staged: Staged, ask: Ask) -> None:
        client, told = Fetching(), list[str]()
        client.connected((), https_bytes=staged.size_bytes, transfers=False)
        client.ask, client.delivered = ask, told.append
        outputs = client.outputs(Result(SessionId(b"s"), Counter(1), staged=staged), lazy=True)
        assert told == [staged.path]
        assert outputs.staged is not None
        path, array = outputs.staged.path, outputs["y"]
        del outputs
        assert np.array_equal(array[5:9], X[5:9])
        del array
        gc.collect()
        assert not path.exists(), "nobody has it any more"

    asking(transfers, tmp_path, scenario, monkeypatch)


def test_what_cannot_come_so_comes_otherwise_or_says_why(
    transfers: Transfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario(stage: Stage, staged: Staged, fetch: Callable[[], Path | None]) -> None:
        Path(staged.path).unlink()
        with pytest.raises(StagedFileGone):
            fetch()
        large = Path(stage.staged(transfers.setting.person))
        with large.open("wb") as file:
            file.truncate(stage.site.staging.https_limit_bytes + 1)
        assert fetch() is None

    fetching(transfers, tmp_path, scenario, monkeypatch)


def test_no_more_comes_than_the_result_has(
    transfers: Transfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario(_stage: Stage, staged: Staged, fetch: Callable[[], Path | None]) -> None:
        with open(staged.path, "ab") as file:
            file.write(b"more")
        with pytest.raises(TransferFailed, match=f"brings more than the {staged.size_bytes} bytes"):
            fetch()

    fetching(transfers, tmp_path, scenario, monkeypatch)


def test_nobody_fetches_what_is_another_s(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        bob = transfers.setting.world.add_person("bob@lab.example")
        async with staged_service(transfers, tmp_path, https=True) as stage:
            with pytest.raises(PermissionDenied):
                await stage.transferring.fetches.https(AskHttps(path=result_of(stage).path), stage.asking(bob))

    asyncio.run(run())


def guest_scope(wanted: LoginRequired) -> str:
    """The one that is asked for."""
    assert wanted.detail is not None
    [scope] = wanted.detail["authorization_parameters"]["required_scopes"]
    return str(scope)


def test_a_missing_consent_asks_for_a_login(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path, https=True, scopes=f"[{TRANSFER_ALL}]") as stage:
            with pytest.raises(LoginRequired, match="hpcserve transfers --login") as caught:
                await stage.transferring.fetches.https(AskHttps(), stage.asking(ada))
            assert guest_scope(caught.value) == f"{transfers.setting.scope}[{stage.guest.https_scope}]"
            with pytest.raises(LoginRequired) as caught:
                await stage.transferring.fetches.https(AskHttps(path=result_of(stage).path), stage.asking(ada))
            assert guest_scope(caught.value) == f"{transfers.setting.scope}[{stage.guest.https_scope}]"

    asyncio.run(run())


def test_a_token_that_has_just_ended_is_no_missing_consent(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        ada, world = transfers.setting.person, transfers.setting.world
        async with staged_service(transfers, tmp_path, https=True) as stage:
            await stage.transferring.fetches.https(AskHttps(), stage.asking(ada))
            for each in list(world.tokens.values()):
                world.expire(each.value)
            asked = AskHttps(path=result_of(stage).path)
            with pytest.raises(ServiceUnavailable, match="being renewed"):
                await stage.transferring.fetches.https(asked, stage.asking(ada))
            with pytest.raises(LoginRequired):
                await stage.transferring.fetches.https(asked, stage.asking(ada))
            await stage.transferring.fetches.https(asked, stage.asking(ada, "-anew"))

    asyncio.run(run())


def test_on_a_mapped_collection_the_consent_leads_to_its_files(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        ada, mapped = transfers.setting.person, transfers.facility
        async with staged_service(transfers, tmp_path, https=True, scopes=f"[{TRANSFER_ALL}]", mapped=mapped) as stage:
            with pytest.raises(LoginRequired) as caught:
                await stage.transferring.fetches.https(AskHttps(path=result_of(stage).path), stage.asking(ada))
            assert caught.value.detail is not None
            [scope] = caught.value.detail["authorization_parameters"]["required_scopes"]
            assert scope == f"{transfers.setting.scope}[{mapped.https_scope}[*{mapped.data_access}]]"

    asyncio.run(run())


def test_a_collection_without_it_is_no_way(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        async with staged_service(transfers, tmp_path) as stage:
            with pytest.raises(Conflict, match="cannot be fetched by HTTPS"):
                await stage.transferring.fetches.https(
                    AskHttps(path=result_of(stage).path), stage.asking(transfers.setting.person)
                )

    asyncio.run(run())


class Elsewhere(BaseHTTPRequestHandler):
    """Leads whoever comes to another path, and notes with which token who comes there."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(302)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_token_goes_nowhere_that_its_server_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(make_certificates(tmp_path)))
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.socket = server_context(tmp_path).wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TransferFailed, match="HTTP 302"):
            download(f"https://localhost:{server.server_port}/r.h5", "secret", tmp_path / "r.h5", 100)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(TransferFailed, match="name its certificates: REQUESTS_CA_BUNDLE"):
            download(f"https://localhost:{server.server_port}/r.h5", "secret", tmp_path / "r.h5", 100)
        server.shutdown()
    assert Elsewhere.seen == [("/r.h5", "Bearer secret")]
