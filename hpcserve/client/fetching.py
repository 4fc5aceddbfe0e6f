"""How a result that lies in a file on the site comes to its caller.

There may be several ways, each a :class:`Fetcher`; the first that leads to the file is taken. Which there are is
decided when a connection is made. What has come is checked, and then the service is told: it may remove the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpcserve.client.https import ByHttps
from hpcserve.core.sitepaths import checked, is_below
from hpcserve.core.tiers import INLINE, reply_for, tier
from hpcserve.errors import HpcserveError, InvalidInput, StagedFileGone, TransferFailed
from hpcserve.wire import messages as wire
from hpcserve.wire.staged import MARK

if TYPE_CHECKING:
    from hpcserve.client.consents import Consents
    from hpcserve.client.outputs import Outputs
    from hpcserve.client.sending import Ask


class Fetcher(Protocol):
    """One way in which staged files come to this machine."""

    def fetch(self, staged: wire.Staged) -> Path | None:
        """The path of the file here, when it is here; None: this way does not lead to it.

        Raises:
            TransferFailed: It leads there, and the file did not come.
        """


class Seen:
    """The file system of the site is seen here.

    Args:
        directory: Where the service stages results.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory.rstrip("/")

    def fetch(self, staged: wire.Staged) -> Path | None:
        """See :meth:`Fetcher.fetch`."""
        try:
            path = checked(staged.path, "a result")
        except InvalidInput as error:
            raise TransferFailed(f"the service tells of no path where a result could be: {error.message}") from error
        return Path(path) if is_below(path, self._directory) and path != self._directory else None


def is_marked(directory: str, public_key: str) -> bool:
    """Whether a directory is where the service of this key stages results, and not just one of its name."""
    try:
        return bool(directory) and (Path(directory) / MARK).read_text() == public_key
    except (OSError, UnicodeDecodeError):
        return False


class Fetching:
    """All ways of one client.

    Attributes:
        ways: Which there are, but for HTTPS.
        https_bytes: Up to so many bytes a result may come by HTTPS; 0: none.
        transfers: Whether the service brings results to collections.
        replies: What is asked for where a result may come in any way: where what is too large has no destination, and
            where it has one.
        delivered: Called, by any thread, with the path on the site of what has come.
        ask: An administrative call, from a thread that may wait; None: there is no client yet.
        consents: Sees to what a result on its way to a collection wants of its owner; None: nobody does.
    """

    def __init__(self) -> None:
        self.ways: Sequence[Fetcher] = ()
        self.https_bytes = 0
        self.transfers = False
        self.replies = (INLINE, INLINE)
        self.delivered: Callable[[str], None] = lambda _path: None
        self.ask: Ask | None = None
        self.consents: Consents | None = None

    def connected(self, ways: Sequence[Fetcher], *, https_bytes: int, transfers: bool) -> None:
        """What there is on a new connection."""
        self.ways, self.https_bytes, self.transfers = ways, https_bytes, transfers
        visible = bool(ways)
        self.replies = (
            reply_for(visible=visible, destination=False, https_limit_bytes=https_bytes),
            reply_for(visible=visible, destination=transfers, https_limit_bytes=https_bytes),
        )

    def is_sent(self, staged: wire.Staged, *, destination: bool) -> bool:
        """Whether a staged result is to be brought to a collection, since it cannot come here."""
        https_bytes = self.https_bytes
        way = tier(
            staged.size_bytes,
            visible=bool(self.ways),
            https=https_bytes > 0,
            https_limit_bytes=https_bytes,
            destination=destination and self.transfers,
        )
        return way == "transfer"

    def outputs(self, result: wire.Result, *, lazy: bool) -> Outputs:
        """The outputs of a result that is staged.

        What has come by HTTPS and is not left in its file is in memory alone.

        Args:
            result: What came in its place.
            lazy: Leave the arrays in the file until they are asked for.

        Raises:
            TransferFailed: The file cannot be had from here, or is damaged.
            StagedFileGone: It was removed.
        """
        from hpcserve.client.outputs import Outputs
        from hpcserve.client.staged import StagedFile

        assert result.staged is not None, "asked for what is staged"
        path = self._seen(result.staged)
        is_own = path is None
        if path is None:
            path = self._by_https(result.staged)
        file = StagedFile(path, result.staged, self.delivered, own=is_own)
        values = file.arrays() if lazy else file.load()
        if lazy and is_own:  # all of it is here, and was compared: whoever reads it needs the site's no more
            self.delivered(result.staged.path)
        return Outputs(
            values,
            replica=result.replica,
            version=result.version,
            run_s=result.run_us / 1e6,
            image=result.image,
            staged=None if is_own and not lazy else file,
        )

    def _seen(self, staged: wire.Staged) -> Path | None:
        return next((path for way in self.ways if (path := way.fetch(staged)) is not None), None)

    def _by_https(self, staged: wire.Staged) -> Path:
        """Once that has failed, results do not count on it any more, until there is another connection."""
        try:
            path = None if self.ask is None else ByHttps(self.ask).fetch(staged)
        except StagedFileGone:
            raise
        except HpcserveError as error:
            self.connected(self.ways, https_bytes=0, transfers=self.transfers)
            raise type(error)(
                f"{error.message} (the result, {staged.size_bytes} bytes, was to come by HTTPS from {staged.path}; "
                "with reply='inline' it comes in its message)",
                detail=error.detail,
                retry_after_s=error.retry_after_s,
            ) from error
        if path is None:
            raise TransferFailed(
                f"the result, {staged.size_bytes} bytes, is in {staged.path} on the site, and that is not seen from "
                "here; call with reply='inline', or where the site's file systems are seen, or with "
                "to='globus://COLLECTION/PATH/', or make the client with large_to='globus://COLLECTION/PATH/'"
            )
        return path
