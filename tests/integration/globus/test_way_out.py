"""What the environment says of proxies, certificates and passwords, to each of the clients of the Globus SDK."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from hpcserve.auth.globus import Globus
from hpcserve.auth.grants import Grants
from hpcserve.auth.signin import refreshed
from hpcserve.auth.tokens import Kept
from hpcserve.core.claims import Rules
from hpcserve.errors import HpcserveError
from hpcserve.staging.transfer import GlobusTransfer, StepFailed
from hpcserve.testing.globus.records import TRANSFER_ALL
from tests.integration.globus.setting import SECRET, Setting

Ask = Callable[[], object]


@pytest.fixture(params=["handshake", "grants", "transfer", "login"])
def ask(request: pytest.FixtureRequest, setting: Setting) -> Ask:
    """Makes a client anew, and has it ask Globus for something that it may have."""
    rules = Rules(client_id=setting.service.id, login_client_id="", scope=setting.scope, issuer="")
    if request.param == "handshake":
        return lambda: Globus(rules, SECRET).introspection("unheard-of")
    if request.param == "grants":
        return lambda: Grants(rules, SECRET).own()
    if request.param == "transfer":
        token = setting.world.token_for(setting.person, setting.native, TRANSFER_ALL).value
        return lambda: GlobusTransfer(token, deadline_s=60.0).submission_id()
    tokens = setting.tokens(offline=True).by_resource_server[setting.service.id]
    kept = Kept(
        service="x" * 40,
        client_id=setting.native.id,
        scope=setting.scope,
        resource_server=setting.service.id,
        access_token="gone",
        expires_at=0.0,
        refresh_token=tokens["refresh_token"],
    )
    return lambda: refreshed(kept)


class Listener(socketserver.ThreadingTCPServer):
    """Keeps what each connection says at first, and hangs up."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard: list[str] = []
        super().__init__(("127.0.0.1", 0), self.Connection)

    class Connection(socketserver.StreamRequestHandler):
        server: Listener

        def handle(self) -> None:
            self.server.heard.append(self.rfile.readline().decode("ascii"))


class Elsewhere(http.server.ThreadingHTTPServer):
    """Sends everybody on once, and keeps what they say who they are."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), self.Connection)

    class Connection(http.server.BaseHTTPRequestHandler):
        server: Elsewhere

        def do_GET(self) -> None:
            self._send_on()

        def do_POST(self) -> None:
            self._send_on()

        def _send_on(self) -> None:
            self.server.heard.append((self.path, self.headers["Authorization"]))
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(404 if self.path == "/elsewhere" else 307)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""


Server = TypeVar("Server", bound=socketserver.BaseServer)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_proxy_is_gone_by_and_only_where_it_is_to_be(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    with serving(Listener()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises((HpcserveError, StepFailed)):
            ask()
        place = setting.globus.url.partition("//")[2].rstrip("/")
        assert proxy.heard[0].split()[:2] == ["CONNECT", place]
        proxy.heard.clear()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        assert ask()
        assert not proxy.heard


def test_certificates_are_those_that_requests_is_told_of(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    monkeypatch.delenv("GLOBUS_SDK_VERIFY_SSL")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", setting.ca)
    assert ask()
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises((HpcserveError, StepFailed)):
        ask()


def test_no_netrc_takes_the_place_of_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask: Ask) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login ada password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(Elsewhere()) as server:
        for service in ("AUTH", "TRANSFER"):
            monkeypatch.setenv(f"GLOBUS_SDK_SERVICE_URL_{service}", f"http://127.0.0.1:{server.server_address[1]}/")
        with pytest.raises((HpcserveError, StepFailed)):
            ask()
        (asked, said), (then_asked, then_said) = server.heard[:2]
        assert asked != then_asked == "/elsewhere"
        assert then_said == said
