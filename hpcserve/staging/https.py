"""Fetches a file by HTTPS: piece by piece, and from where it was cut off when the connection breaks. Blocks.

Whether what has come is whole, :mod:`hpcserve.staging.hdf5` finds out.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from hpcserve.config.way_out import trusted
from hpcserve.errors import AuthenticationError, ServiceUnavailable, StagedFileGone, TransferFailed

PIECE_BYTES = 1 << 20
TIMEOUT_S = 30.0
TRIES = 6
"""In a row that bring nothing."""
PAUSE_S = 0.5


class _Stay(urllib.request.HTTPRedirectHandler):
    """A token goes to the server that it is for, and to none that this names."""

    def redirect_request(self, *_: object) -> None:
        """Nowhere."""


def download(url: str, token: str, path: Path, size_bytes: int) -> None:
    """Fetches what is left of a file of ``size_bytes``; what ``path`` has already is its beginning.

    Raises:
        AuthenticationError: The token does not do, or not any more.
        StagedFileGone: There is no such file any more.
        TransferFailed: The server refuses, or the disk does; or more comes than there is to be.
        ServiceUnavailable: The connection broke again and again.
    """
    if not url.startswith("https://"):
        raise TransferFailed(f"{url}: results are fetched by HTTPS alone")
    opener = urllib.request.build_opener(_Stay, urllib.request.HTTPSHandler(context=trusted()))
    failures = 0
    while True:
        before = path.stat().st_size if path.exists() else 0
        headers = {"Authorization": f"Bearer {token}", **({"Range": f"bytes={before}-"} if before else {})}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (https alone, looked at before)
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                if _append(answer, path, before, size_bytes):
                    return
            what = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # all of it is here
                return
            _check(error, url)
            what = f"HTTP {error.code}"
        except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as error:
            _check_certificate(error, url)
            what = f"{type(error).__name__}: {error}"
        except OSError as error:
            raise TransferFailed(f"cannot write {path}: {error.strerror}") from error
        moved = path.exists() and path.stat().st_size > before
        failures = 0 if moved else failures + 1
        if failures >= TRIES:
            raise ServiceUnavailable(f"{url} cannot be fetched: {what}", retry_after_s=10.0)
        time.sleep(PAUSE_S * 2**failures)


def _check(error: urllib.error.HTTPError, url: str) -> None:
    """Raises where asking again would not help."""
    if error.code in (401, 403):
        raise AuthenticationError(f"{url}: HTTP {error.code}") from error
    if error.code == 404:
        raise StagedFileGone(f"{url} is gone: staged results are kept for a time; call again") from error
    if error.code != 429 and error.code < 500:
        raise TransferFailed(f"{url}: HTTP {error.code}") from error


def _check_certificate(error: Exception, url: str) -> None:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, ssl.SSLCertVerificationError):
        raise TransferFailed(
            f"{url}: the server's certificate is none that is trusted here; if a proxy of your site stands between, or "
            "a stand-in, name its certificates: REQUESTS_CA_BUNDLE, or GLOBUS_SDK_VERIFY_SSL"
        ) from error


def _append(answer: http.client.HTTPResponse, path: Path, start: int, size_bytes: int) -> bool:
    """Appends what comes; whether that was all."""
    again = start and answer.status != 206  # a server that knows no ranges sends all of it
    told = answer.headers.get("Content-Length")
    came, first = 0, 0 if again else start
    with open(path, "wb" if again else "ab") as file:
        while piece := answer.read(PIECE_BYTES):
            came += len(piece)
            if first + came > size_bytes:
                raise TransferFailed(f"{answer.url} brings more than the {size_bytes} bytes of the result; call again")
            file.write(piece)
    return told is None or came >= int(told)
