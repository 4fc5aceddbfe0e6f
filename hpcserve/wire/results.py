"""The administrative calls about staged results: which there are, and that some are not wanted any more."""

from __future__ import annotations

from hpcserve.wire.admin import Admin


class AskResults(Admin, frozen=True, kw_only=True):
    """``results``: the caller's staged results; those of ``everybody``, for administrators.

    ``undelivered``: those alone that were not delivered. ``older_s``: those that were written so long ago or longer.
    """

    everybody: bool = False
    undelivered: bool = False
    older_s: float = 0.0


class ResultView(Admin, frozen=True, kw_only=True):
    """One file. Times are seconds since 1970.

    ``delivered_s``: when it was delivered; None: it was not. ``until_s``: when it is removed; None: when it has been
    delivered, or given up. ``held``: it is on its way to a collection, or waits for that, and is not removed meanwhile.
    """

    owner: str
    path: str
    size_bytes: int
    written_s: float
    delivered_s: float | None = None
    until_s: float | None = None
    held: bool = False


class ResultList(Admin, frozen=True, kw_only=True):
    """The oldest first; ``more`` are not in the list."""

    results: tuple[ResultView, ...]
    more: int = 0


class Discard(Admin, frozen=True, kw_only=True):
    """``discard``: remove these staged results, ``paths`` on the site; for administrators also those of others."""

    paths: tuple[str, ...]


class Discarded(Admin, frozen=True, kw_only=True):
    """``removed`` were removed; the others had gone by then."""

    removed: int
