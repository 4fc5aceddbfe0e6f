"""What becomes of a session when its login ends, is renewed, or cannot be asked about: a daemon, and a stand-in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve.auth.keys import new_key_pair
from hpcserve.auth.private import private_directory
from hpcserve.errors import Overloaded, ServiceUnavailable
from hpcserve.types import Counter
from hpcserve.wire import admin
from tests.integration.daemon_tree import SERVABLES, Daemon, until
from tests.integration.globus.setting import SECRET, Setting, standing_in
from tests.integration.globus.wire_session import WireSession

CACHE_S = 3.0


@pytest.fixture(scope="module")
def globus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    with standing_in(tmp_path_factory.mktemp("globus")) as setting, pytest.MonkeyPatch.context() as patch:
        for name, value in setting.globus.environment.items():
            patch.setenv(name, value)
        yield setting


@pytest.fixture(scope="module")
def served(globus: Setting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that wants logins, and serves tally to everybody."""
    fields = {"client_id": globus.service.id, "native_client_id": globus.native.id, "cache_s": CACHE_S}
    everybody = {"allow": ["*"]}
    lists = {f"access.{each}": everybody for each in ("call", "publish", "deploy", "administer")}
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), globus=fields, recovery={"session_linger_s": 60.0}, **lists)
    daemon.site.write_text(f'auth = "globus"\n{daemon.site.read_text()}')
    secret = private_directory(daemon.state / "keys") / "globus.secret"
    secret.touch(0o600)
    secret.write_text(SECRET)
    try:
        daemon.up()
        with session(daemon, globus) as admin_session:
            path = str(SERVABLES / "tally")
            admin_session.call("publish", admin.Publish(path=path), admin.Published)
            admin_session.call("deploy", admin.Deploy(servable="tally"), admin.Deployed)
        yield daemon
    finally:
        daemon.end()


@contextlib.contextmanager
def session(daemon: Daemon, globus: Setting, token: str = "") -> Iterator[WireSession]:
    made = WireSession(daemon.record, new_key_pair(), token or token_of(globus))
    try:
        yield made
    finally:
        made.close()


def token_of(globus: Setting) -> str:
    return globus.world.token_for(globus.person, globus.native, globus.scope).value


def run(session: WireSession, place: Path, **parameters: Any) -> Counter:
    log = {"log": str(place / "log"), **parameters}
    return session.request("tally.again", {"n": np.int64(7)}, log)


def runs(place: Path) -> int:
    log = place / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_revoked_login_ends_its_session_and_its_key(served: Daemon, globus: Setting, tmp_path: Path) -> None:
    token = token_of(globus)
    with session(served, globus, token) as ada:
        assert ada.result(run(ada, tmp_path)).error is None
        assert ada.may_connect()
        globus.world.revoke(token)
        assert ada.refusal().code == "login_required"
        assert not ada.may_connect()
    lines = [json.loads(line) for line in (served.state / "audit" / "admission.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines if line["key"] == ada.keys.public_z85] == ["hello", "put-out"]


def test_a_login_that_is_renewed_drops_no_request(served: Daemon, globus: Setting, tmp_path: Path) -> None:
    globus.world.lifetime_s = 30
    token = token_of(globus)
    globus.world.lifetime_s = 3600
    with session(served, globus, token) as ada:
        id = run(ada, tmp_path, gates=str(tmp_path))
        until(lambda: runs(tmp_path), "it runs")
        welcome = ada.hello(token_of(globus))
        assert welcome.expires_in_s is not None
        assert welcome.expires_in_s > 3000
        globus.world.expire(token)
        asked = globus.globus.faults.asked
        path = "POST /v2/oauth2/token/introspect"
        before = asked[path]
        until(lambda: asked[path] >= before + 2, "two more periods have passed")
        (tmp_path / "all").touch()
        assert ada.result(id).error is None
    assert runs(tmp_path) == 1


def test_while_auth_is_away_for_long_a_session_pauses_and_then_goes_on(
    served: Daemon, globus: Setting, tmp_path: Path
) -> None:
    token = token_of(globus)
    with session(served, globus, token) as ada:
        id = run(ada, tmp_path, gates=str(tmp_path))
        until(lambda: runs(tmp_path), "it runs")
        globus.globus.faults.add(".* /v2/oauth2", 503, times=None)
        assert ada.refusal().code == "unavailable"
        assert not ada.may_connect()
        (tmp_path / "all").touch()
        globus.globus.faults.clear()
        ada.connection.close()
        until(lambda: comes_back(ada, token), "it is let in again")
        assert ada.result(id).error is None
    assert runs(tmp_path) == 1, "its request was not run again"


def comes_back(session: WireSession, token: str) -> bool:
    with contextlib.suppress(ServiceUnavailable, Overloaded):
        session.dial(token)
        return True
    return False
