"""Staged results that are fetched by HTTPS from a collection of the site, into files that go when nobody has them."""

from __future__ import annotations

import functools
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hpcserve.client.sending import patiently
from hpcserve.errors import AuthenticationError, Conflict, TransferFailed
from hpcserve.wire import messages as wire
from hpcserve.wire.admin import AskHttps
from hpcserve.wire.admin import ByHttps as Place

if TYPE_CHECKING:
    from hpcserve.client.sending import Ask

AWAY_S = 120.0
"""A Globus that is busy answers again by then; others' results wait as long."""
TRIES = 2
"""What came otherwise than it was sent is fetched once more, and so is what a token did not do for any more."""


class ByHttps:
    """See :class:`hpcserve.client.fetching.Fetcher`. The service says where, and gives the caller a token for it.

    Args:
        ask: An administrative call.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def fetch(self, staged: wire.Staged) -> Path | None:
        """See :meth:`hpcserve.client.fetching.Fetcher.fetch`.

        Raises:
            HpcserveError: It leads there, and the file did not come.
        """
        path = Path(_directory().name) / f"{secrets.token_hex(8)}.h5"
        try:
            return self._fetched(staged, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _fetched(self, staged: wire.Staged, path: Path) -> Path | None:
        from hpcserve.staging import hdf5
        from hpcserve.staging.https import download

        tries = TRIES
        while True:
            try:
                place = patiently(self._ask, "https", AskHttps(path=staged.path), Place, for_s=AWAY_S)
            except Conflict:  # this service has no such way, or not for so much
                path.unlink(missing_ok=True)
                return None
            try:
                download(place.url, place.token, path, staged.size_bytes)
                try:
                    hdf5.verify(path, staged)
                except TransferFailed as error:
                    why = error.message.replace(f"the result's file {path}", "what came")
                    raise TransferFailed(f"the result arrived damaged: {why}") from error
            except (AuthenticationError, TransferFailed) as error:
                tries -= 1
                if not tries:
                    raise
                if isinstance(error, TransferFailed):
                    path.unlink(missing_ok=True)
            else:
                return path


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hpcserve-")
