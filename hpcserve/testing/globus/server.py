"""The stand-in's one HTTPS server: TLS, reading requests, faults, and which service answers."""

from __future__ import annotations

import contextlib
import json
import socket
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
PIECE_BYTES = 1 << 16


class Server:
    """Answers on a port of the loopback interface that the system chooses, until it is closed.

    Args:
        directory: Where the certificates go.
        services: Who answers.
        faults: What to do wrong.
        port: Which port to take, if it is free.
    """

    def __init__(self, directory: Path, services: Sequence[Service], faults: Faults, *, port: int = 0) -> None:
        self.ca = make_certificates(directory)
        context = server_context(directory)
        try:
            self._server = _Server(context, services, faults, port)
        except OSError:
            self._server = _Server(context, services, faults, 0)
        self._faults = faults
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Ends with a slash."""
        return f"https://localhost:{self._server.server_address[1]}/"

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer, in threads of its own."""
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more, also who is still connected."""
        self._faults.clear()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, context: ssl.SSLContext, services: Sequence[Service], faults: Faults, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._context = context
        self._services = services
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self.faults = faults

    def get_request(self) -> tuple[Any, Any]:
        """Accept; the handshake is left to the connection's own thread, so that nobody can hold up the others."""
        connection, address = super().get_request()
        connection.settimeout(IDLE_S)
        encrypted = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections.add(encrypted)
        return encrypted, address

    def shutdown_request(self, request: Any) -> None:
        """A connection has ended."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End all connections. Their threads see the end of what is said, and end themselves."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong in one connection, unless the other side just went away."""
        if not isinstance(sys.exception(), OSError):
            traceback.print_exc()

    def answer(self, request: Request) -> Response:
        """What the services say, and what the faults make of it."""
        met = self.faults.meet(request)
        if met.instead is not None and not met.after:
            return met.instead
        response = self._of_services(request)
        for key in met.drop:
            without(response.body, key)
        return met.instead or response

    def _of_services(self, request: Request) -> Response:
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
            return service.answer(request)
        except Refusal as refusal:
            return refusal.response


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hpcserve-stand-in"
    disable_nagle_algorithm = True
    wbufsize = PIECE_BYTES
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
        content.exhaust()
        self._send(response)

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
    """What a request carries, read to its end and no further, whether its length is said at first or by the piece."""

    def __init__(self, source: Content, headers: Any) -> None:
        self._source = source
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._left = 0 if self._chunked else int(headers.get("content-length") or 0)

    def read(self, size: int = -1, /) -> bytes:
        pieces = []
        while size and self._more():
            wanted = self._left if size < 0 else min(size, self._left)
            pieces.append(self._exactly(wanted))
            self._left -= wanted
            size -= wanted if size > 0 else 0
        return b"".join(pieces)

    def exhaust(self) -> None:
        """Throw the rest away: who still sends does not read an answer."""
        while self.read(PIECE_BYTES):
            pass

    def _more(self) -> bool:
        """Whether there is more, having read how much the next piece is."""
        if self._chunked and not self._left:
            size = self._line() or self._line()  # a piece but the first follows the end of a line
            self._left = int(size.partition(b";")[0], 16)
            if not self._left:
                self._chunked = False
                while self._line():
                    pass
        return self._left > 0

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += self._exactly(1)
        return line.strip()

    def _exactly(self, size: int) -> bytes:
        piece = self._source.read(size)
        if len(piece) < size:
            raise ConnectionResetError("the request ended early")
        return piece


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
