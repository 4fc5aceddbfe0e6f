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
from hpcserve.errors import InvalidInput, TransferFailed
from hpcserve.wire import messages as wire
from hpcserve.wire.staged import MARK

if TYPE_CHECKING:
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
        ways: Which there are.
        delivered: Called, by any thread, with the path on the site of what has come.
        ask: An administrative call, from a thread that may wait; None: there is no client yet.
    """

    def __init__(self) -> None:
        self.ways: Sequence[Fetcher] = ()
        self.delivered: Callable[[str], None] = lambda _path: None
        self.ask: Ask | None = None

    def outputs(self, result: wire.Result, *, lazy: bool) -> Outputs:
        """The outputs of a result that is staged.

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
        file = StagedFile(self._path(result.staged), result.staged, self.delivered)
        return Outputs(
            file.arrays() if lazy else file.load(),
            replica=result.replica,
            version=result.version,
            run_s=result.run_us / 1e6,
            image=result.image,
            staged=file,
        )

    def _path(self, staged: wire.Staged) -> Path:
        further: list[Fetcher] = [] if self.ask is None else [ByHttps(self.ask)]
        for way in (*self.ways, *further):
            path = way.fetch(staged)
            if path is not None:
                return path
        raise TransferFailed(
            f"the result, {staged.size_bytes} bytes, is in {staged.path} on the site, and that is not seen from here; "
            "call with reply='inline', or where the site's file systems are seen, or with to='globus://COLLECTION/PATH/'"
        )
