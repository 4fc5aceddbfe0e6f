"""The stand-in's server: what no service has to care about."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from hpcserve.testing.globus.faults import Faults
from hpcserve.testing.globus.http import Request, Response
from hpcserve.testing.globus.server import Server

PIECE = 1 << 16


class Echo:
    """Says how much it was sent; streams, or is broken, by the path."""

    prefixes = ("/echo/",)

    def answer(self, request: Request) -> Response:
        match request.path:
            case "/echo/stream":
                return Response(200, (bytes(PIECE) for _ in range(40)), {"content-length": str(40 * PIECE)})
            case "/echo/endless":
                return Response(200, (b"x" for _ in range(3)))
            case "/echo/defect":
                raise ZeroDivisionError("a defect")
            case "/echo/unread":
                return Response(200, {})
        return Response(200, {"path": request.path, "query": dict(request.query), "bytes": len(request.body)})


class Longer:
    prefixes = ("/echo/longer/", "/other/")

    def answer(self, request: Request) -> Response:
        return Response(200, "<p>longer</p>")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, [Echo(), Longer()], Faults())
    server.start()
    yield server
    server.close()


@pytest.fixture
def session(server: Server) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(server.ca)
        yield session


def test_one_connection_for_many_requests(server: Server, session: requests.Session) -> None:
    url = f"{server.url}echo/"
    told = session.post(f"{url}a%20b?c=1&c=&d=%2F", data=bytes(3 << 20), timeout=60).json()
    assert told == {"path": "/echo/a b", "query": {"c": ["1", ""], "d": ["/"]}, "bytes": 3 << 20}
    assert session.post(f"{url}unread", data=bytes(1000), timeout=60).json() == {}
    assert len(session.get(f"{url}stream", timeout=60).content) == 40 * PIECE
    head = session.head(f"{url}stream", timeout=60)
    assert (head.headers["content-length"], head.content) == (str(40 * PIECE), b"")
    assert session.get(f"{url}x", timeout=60).json()["bytes"] == 0


def test_what_ends_a_connection_does_not_end_the_next(server: Server, session: requests.Session) -> None:
    url = f"{server.url}echo/"
    assert session.get(f"{url}endless", timeout=60).content == b"xxx"
    assert session.post(f"{url}unread", data=bytes(20 << 20), timeout=60).json() == {}
    assert session.get(f"{url}x", timeout=60).json()["bytes"] == 0


def test_the_longest_prefix_answers(server: Server, session: requests.Session) -> None:
    page = session.get(f"{server.url}echo/longer/x", timeout=60)
    assert (page.text, page.headers["content-type"]) == ("<p>longer</p>", "text/html; charset=utf-8")
    assert session.get(f"{server.url}nothing", timeout=60).status_code == 404


def test_a_length_may_be_said_by_the_piece(server: Server, session: requests.Session) -> None:
    for path, told in (("x", 70_003), ("unread", None), ("x", 70_003)):
        pieces = iter([b"ab", b"c", bytes(70_000)])
        answer = session.post(f"{server.url}echo/{path}", data=pieces, timeout=60)
        assert answer.json().get("bytes") == told


def test_a_defect_is_shown(server: Server, session: requests.Session, capfd: pytest.CaptureFixture[str]) -> None:
    answer = session.get(f"{server.url}echo/defect", timeout=60)
    assert answer.status_code == 500
    assert "ZeroDivisionError: a defect" in answer.json()["message"]
    assert "ZeroDivisionError: a defect" in capfd.readouterr().err


def test_who_connects_and_says_nothing_holds_up_nobody(
    server: Server, session: requests.Session, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) as silent:
        assert session.get(f"{server.url}echo/x", timeout=60).status_code == 200
        silent.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert session.get(f"{server.url}echo/x", timeout=60).status_code == 200
    assert capfd.readouterr().err == ""


def test_who_is_still_connected_is_hung_up_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = Server(tmp_path, [Echo()], Faults())
    server.start()
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(server.ca)
        assert session.get(f"{server.url}echo/x", timeout=60).status_code == 200
        server.close()
        with pytest.raises(requests.ConnectionError):
            session.get(f"{server.url}echo/x", timeout=60)
    assert capfd.readouterr().err == ""


def test_no_key_lies_there_and_the_authority_signs_no_more(server: Server, tmp_path: Path) -> None:
    files = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"ca.pem": "0o644"}
    assert "PRIVATE KEY" not in (tmp_path / "ca.pem").read_text()
    assert os.access(server.ca, os.R_OK)
