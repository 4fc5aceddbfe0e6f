"""Files of a collection by HTTPS: ``GET``, ``HEAD`` and ``PUT`` with a token of that collection's own.

Source: https://docs.globus.org/globus-connect-server/v5/https-access-collections/ . They lie at
``/collections/ID/PATH`` here, and on a server of their own with Globus: ``https_server`` of a collection says where.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcserve.testing.globus.collections import Caller, Collection, Collections, Kind, NotAllowed
from hpcserve.testing.globus.contents import CHUNK_BYTES
from hpcserve.testing.globus.http import Refusal, Request, Response
from hpcserve.testing.globus.transfer_callers import caller, check_consent, refusal, token_of
from hpcserve.testing.globus.world import World

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class HttpsCollections:
    """The service. See :class:`hpcserve.testing.globus.http.Service`."""

    prefixes: tuple[str, ...] = ("/collections/",)

    def __init__(self, world: World, collections: Collections) -> None:
        self._world = world
        self._collections = collections

    def answer(self, request: Request) -> Response:
        """Answer one request."""
        collection_id, _, path = request.path.removeprefix("/collections/").partition("/")
        collection = self._collections.get(collection_id)
        if collection is None or not collection.https or collection.kind is Kind.PERSONAL:
            raise refusal(request, 404, "not_found", f"no collection by HTTPS at {request.path}")
        token = token_of(self._world, request, collection.https_scope)
        check_consent(self._world, request, token, collection, by=collection.https_scope)
        who = caller(self._world, token.sub)
        if collection.trouble.gone:
            raise refusal(request, 502, "bad_gateway", f"{collection.name}: nobody answers")
        with _answered(request):
            match request.method:
                case "GET" | "HEAD":
                    return _read(request, collection, collection.allow(who, f"/{path}", "r").path)
                case "PUT":
                    return _write(request, who, collection, f"/{path}")
        raise Refusal(405, {"code": "method_not_allowed", "message": request.method}, {"allow": "GET, HEAD, PUT"})


def _read(request: Request, collection: Collection, path: Path) -> Response:
    with open(path, "rb") as file:
        size = file.seek(0, 2)
    start, end, status = 0, size, 200
    if match := _RANGE.fullmatch(request.headers.get("range", "")):
        first, last = match[1], match[2]
        if first:
            start, end = int(first), min(size, int(last) + 1) if last else size
        elif last:
            start = max(0, size - int(last))
        status = 206
        if start >= end:
            raise Refusal(416, {"code": "range", "message": match[0]}, {"content-range": f"bytes */{size}"})
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(end - start),
        "content-type": "application/octet-stream",
    }
    if status == 206:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    pieces = _pieces(path, start, end) if request.method == "GET" else ()
    if request.method == "GET" and collection.trouble.cut:
        collection.trouble.cut -= 1
        pieces = _cut(pieces, (end - start) // 2)
    elif request.method == "GET" and end > start and collection.goes_wrong():
        pieces = _spoilt(pieces)
    return Response(status, pieces, headers)


def _pieces(path: Path, start: int, end: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while start < end and (piece := file.read(min(CHUNK_BYTES, end - start))):
            start += len(piece)
            yield piece


def _cut(pieces: Iterable[bytes], left: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            raise ConnectionResetError("told to end in the middle")


def _spoilt(pieces: Iterable[bytes]) -> Iterator[bytes]:
    first, *others = pieces
    yield bytes([first[0] ^ 0xFF]) + first[1:]
    yield from others


def _write(request: Request, who: Caller, collection: Collection, path: str) -> Response:
    place = collection.allow(who, path, "rw").path
    size, room = int(request.headers.get("content-length") or 0), collection.room_bytes(place)
    if room is not None and size > room:
        raise refusal(request, 507, "quota_exceeded", f"{path}: {size} bytes, and there is room for {room}")
    with open(place, "wb") as file:
        shutil.copyfileobj(request.content, file, CHUNK_BYTES)
    collection.spoil(place)
    return Response(200, {"code": "success", "message": f"{path} is written"})


@contextmanager
def _answered(request: Request) -> Iterator[None]:
    """Errors of the file system, as refusals."""
    try:
        yield
    except NotAllowed as error:
        raise refusal(request, 403, "permission_denied", str(error)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refusal(request, 404, "not_found", f"{request.path}: {error.strerror}") from error
    except (IsADirectoryError, PermissionError) as error:
        raise refusal(request, 403, "permission_denied", f"{request.path}: {error.strerror}") from error
