"""The stand-in's one HTTPS server: TLS, reading requests, faults, and which service answers."""

from __future__ import annotations

import json
import ssl
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hpcserve.testing.globus.faults import Faults, without
from hpcserve.testing.globus.http import Content, Refusal, Request, Response, Service
from hpcserve.testing.globus.tls import make_certificates, server_context

IDLE_S = 60.0
"""How long a connection may say nothing."""
MOST_UNREAD = 1 << 20
"""What a service has not read of a request is thrown away up to so many bytes; over that the connection ends."""


class Server:
    """Answers on a port of the loopback interface that the system chooses, until it is closed.

    Args:
        directory: Where the certificates go.
        services: Who answers.
        faults: What to do wrong.
    """

    def __init__(self, directory: Path, services: Sequence[Service], faults: Faults) -> None:
        self.ca = make_certificates(directory)
        self._server = _Server(server_context(directory), services, faults)
        self._faults = faults
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Ends with a slash."""
        return f"https://localhost:{self._server.server_address[1]}/"

    def start(self) -> None:
        """Begin to answer, in threads of its own."""
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._faults.clear()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, context: ssl.SSLContext, services: Sequence[Service], faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._context = context
        self._services = services
        self.faults = faults

    def get_request(self) -> tuple[Any, Any]:
        """Accept; the handshake is left to the connection's own thread, so that nobody can hold up the others."""
        connection, address = super().get_request()
        connection.settimeout(IDLE_S)
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong in one connection, unless the other side just went away."""
        if not isinstance(sys.exception(), OSError):
            traceback.print_exc()

    def answer(self, request: Request) -> Response:
        """What the services say, and what the faults make of it."""
        instead, dropped = self.faults.meet(request)
        if instead is not None:
            return instead
        prefixes = [
            (len(prefix), service)
            for service in self._services
            for prefix in service.prefixes
            if request.path.startswith(prefix)
        ]
        if not prefixes:
            return Response(404, {"code": "NotFound", "message": f"nothing at {request.path}"})
        service = max(prefixes, key=lambda each: each[0])[1]
        try:
            response = service.answer(request)
        except Refusal as refusal:
            response = refusal.response
        for key in dropped:
            without(response.body, key)
        return response


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hpcserve-stand-in"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def setup(self) -> None:
        self.request.do_handshake()
        super().setup()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        content = _Content(self.rfile, self.headers)
        request = Request(
            method=self.command,
            path=unquote(address.path),
            query=parse_qs(address.query, keep_blank_values=True),
            headers={name.lower(): value for name, value in self.headers.items()},
            content=content,
        )
        try:
            response = self.server.answer(request)
        except Exception:  # noqa: BLE001 (a test sees a defect of the stand-in as what it is)
            traceback.print_exc()
            response = Response(500, {"code": "InternalError", "message": traceback.format_exc()})
        self._send(response)
        if not content.exhaust(MOST_UNREAD):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _answer  # noqa: N815 (so the library finds it)

    def _send(self, response: Response) -> None:
        pieces, kind = _pieces(response.body)
        headers = {name.lower(): value for name, value in response.headers.items()}
        headers.setdefault("content-type", kind)
        if isinstance(pieces, bytes):
            headers.setdefault("content-length", str(len(pieces)))
            pieces = [pieces]
        elif "content-length" not in headers:
            self.close_connection = True
            headers["connection"] = "close"
        self.send_response(response.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for piece in pieces:
                self.wfile.write(piece)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's name)
        """Write nothing: ``Faults.asked`` says what was asked."""


class _Content:
    """What a request carries, read up to its declared length and no further."""

    def __init__(self, source: Content, headers: Any) -> None:
        self._source = source
        self._left = int(headers.get("content-length") or 0)
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()

    def read(self, size: int = -1, /) -> bytes:
        if self._chunked:
            raise Refusal(411, {"code": "LengthRequired", "message": "send a Content-Length"})
        wanted = self._left if size < 0 else min(size, self._left)
        piece = self._source.read(wanted)
        if len(piece) < wanted:
            raise ConnectionResetError("the request ended early")
        self._left -= len(piece)
        return piece

    def exhaust(self, most: int) -> bool:
        """Throw the rest away; False if it is too much."""
        if self._chunked or self._left > most:
            return False
        self.read()
        return True


def _pieces(body: Any) -> tuple[bytes | Iterable[bytes], str]:
    match body:
        case None:
            return b"", "application/json"
        case dict() | list():
            return json.dumps(body).encode(), "application/json"
        case str():
            return body.encode(), "text/html; charset=utf-8"
        case bytes():
            return body, "application/octet-stream"
        case _:
            return body, "application/octet-stream"
