"""Staged results by HTTPS, from a guest collection of the service: with a token of the caller's, and whole."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import h5py
import numpy as np
import pytest

from hpcserve.client.https import ByHttps
from hpcserve.errors import Conflict, LoginRequired, PermissionDenied, StagedFileGone, TransferFailed
from hpcserve.testing.globus.records import TRANSFER_ALL
from hpcserve.wire.admin import AskHttps
from hpcserve.wire.messages import Staged, StagedTensor
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
    """Runs a scenario in a thread, as a client's is; its calls are answered by the service's loop."""
    monkeypatch.setenv("SSL_CERT_FILE", transfers.setting.ca)

    async def run() -> None:
        async with staged_service(transfers, place, https=True) as stage:
            loop = asyncio.get_running_loop()
            ada = transfers.setting.person

            def ask(verb: str, arguments: Any, _answer: type[Any]) -> Any:
                assert verb == "https"
                return asyncio.run_coroutine_threadsafe(
                    stage.transferring.https(arguments, stage.asking(ada)), loop
                ).result()

            staged = result_of(stage)
            await asyncio.to_thread(scenario, stage, staged, lambda: ByHttps(cast("Ask", ask)).fetch(staged))

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
        with pytest.raises(TransferFailed):
            fetch()

    fetching(transfers, tmp_path, scenario, monkeypatch)


def test_the_rule_is_there_until_the_last_fetch_has_ended(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path, https=True) as stage:
            paths = [result_of(stage, name).path for name in ("a.h5", "b.h5")]
            for path in paths:
                await stage.transferring.https(AskHttps(path=path), stage.asking(ada))
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
                await stage.transferring.https(AskHttps(path=result_of(stage).path), stage.asking(bob))

    asyncio.run(run())


def test_a_missing_consent_asks_for_a_login(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path, https=True, scopes=f"[{TRANSFER_ALL}]") as stage:
            with pytest.raises(LoginRequired) as caught:
                await stage.transferring.https(AskHttps(path=result_of(stage).path), stage.asking(ada))
            assert caught.value.detail is not None
            [scope] = caught.value.detail["authorization_parameters"]["required_scopes"]
            assert scope == f"{transfers.setting.scope}[{stage.guest.https_scope}]"

    asyncio.run(run())


def test_on_a_mapped_collection_the_consent_leads_to_its_files(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        ada, mapped = transfers.setting.person, transfers.facility
        async with staged_service(transfers, tmp_path, https=True, scopes=f"[{TRANSFER_ALL}]", mapped=mapped) as stage:
            with pytest.raises(LoginRequired) as caught:
                await stage.transferring.https(AskHttps(path=result_of(stage).path), stage.asking(ada))
            assert caught.value.detail is not None
            [scope] = caught.value.detail["authorization_parameters"]["required_scopes"]
            assert scope == f"{transfers.setting.scope}[{mapped.https_scope}[*{mapped.data_access}]]"

    asyncio.run(run())


def test_a_collection_without_it_is_no_way(transfers: Transfers, tmp_path: Path) -> None:
    async def run() -> None:
        async with staged_service(transfers, tmp_path) as stage:
            with pytest.raises(Conflict, match="cannot be fetched by HTTPS"):
                await stage.transferring.https(
                    AskHttps(path=result_of(stage).path), stage.asking(transfers.setting.person)
                )

    asyncio.run(run())
