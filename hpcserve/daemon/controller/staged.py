"""Staged results on the disk: noted when they pass, removed when their time is up, never before their delivery.

A site may have those removed, too, that were not delivered for a time that it sets.

What is on the disk is the truth, and the store remembers what the disk does not tell: whether a file was delivered. A
file that nobody has told of, such as that of a replica that died before it could, is kept like one that was never
fetched. Nothing is opened or removed through a symbolic link: a servable's code may write into these directories. What
it has given a name that is no UTF-8 is no result: it is told in the log, and left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpcserve.auth import keys, private
from hpcserve.config import Site
from hpcserve.core.retention import staged_until_s
from hpcserve.core.spelling import printable
from hpcserve.daemon.controller.leftovers import prune_below
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import HpcserveError
from hpcserve.registry.rows import StagedRow
from hpcserve.registry.store import Store
from hpcserve.wire.hub import ResultStaged
from hpcserve.wire.staged import MARK, PARTIAL

_log = logging.getLogger(__name__)

SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.25, 60.0
LEFT_S = 3600.0
"""A file that is being written grows; one that has not for so long is left of a replica that was killed."""
LITTLE = 0.05
"""So little of a disk free is worth a warning."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """A file on the disk: whose it is, its name, how many bytes it takes, when it was written last."""

    owner: str
    name: str
    size_bytes: int
    written_s: float


class Tally(NamedTuple):
    """What there was when it was looked at last.

    ``files``, which take ``size_bytes``; of them ``undelivered``, which take ``undelivered_bytes``, the oldest
    written at ``oldest_s`` (None: there is none); ``free_bytes``: on their disk (None: nobody knows).
    """

    files: int = 0
    size_bytes: int = 0
    undelivered: int = 0
    undelivered_bytes: int = 0
    oldest_s: float | None = None
    free_bytes: int | None = None


class StagedFiles:
    """All staged results of a site.

    Args:
        site: The site.
        storage: The store.
        held: Whether a file, by its owner and name, is on its way to somewhere and must stay.

    Attributes:
        tally: What there was when it was looked at last.
    """

    def __init__(
        self, site: Site, storage: Storage, held: Callable[[str, str], bool] = lambda _owner, _name: False
    ) -> None:
        self._staging = site.staging
        self._directory = site.staging_dir
        self._shared = site.mode == "service"
        self._storage = storage
        self._held = held
        self._is_short = False
        self._odd: frozenset[str] = frozenset()
        self.tally = Tally()

    async def open(self, key: Path) -> None:
        """Makes the directory, and marks it as that of this ``key``. Without it, results travel in their messages."""
        try:
            await asyncio.to_thread(_mark, self._directory, key)
        except (OSError, HpcserveError) as error:
            _log.error("no results can be staged: %s", error)

    async def note(self, message: ResultStaged) -> None:
        """A result is on its way to its client."""
        row = StagedRow(owner=message.owner, name=message.name, size_bytes=message.size_bytes, written_s=time.time())
        try:
            await self._storage.do(Store.add_staged, (row,))
        except HpcserveError as error:  # it is found on the disk later
            _log.warning("staged result %s/%s is not noted: %s", row.owner, row.name, error)

    async def delivered(self, owner: str, paths: Iterable[str]) -> int:
        """A caller has these results; returns how many of them are the caller's."""
        names = [name for path in paths if (name := self._own(owner, path))]
        return await self._storage.do(Store.staged_delivered, owner, names, time.time()) if names else 0

    def _own(self, owner: str, path: str) -> str:
        """The name of a caller's file; empty if it is another's."""
        above, _, name = path.rpartition("/")
        return name if above == f"{self._directory}/{owner}" else ""

    async def run(self) -> None:
        """Removes what has been kept for long enough, again and again."""
        soonest_s = min(self._staging.keep_s, self._staging.keep_undelivered_s)
        while True:
            try:
                await self.prune()
            except HpcserveError as error:
                _log.warning("which staged results are to be removed is not known: %s", error)
            except Exception:  # noqa: BLE001 (a defect of ours, at one file, is not to end the controller)
                _log.exception("staged results could not be looked after; they are looked at again")
            await asyncio.sleep(min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, soonest_s / 4)))

    async def prune(self) -> None:
        """Removes what has been kept for long enough.

        Raises:
            HpcserveError: The store cannot be read or written.
        """
        if self._shared:
            await asyncio.to_thread(prune_below, self._directory, time.time() - self._staging.keep_inputs_s)
        found, odd = await asyncio.to_thread(_listed, self._directory)
        self._warn(odd)
        rows = {(row.owner, row.name): row for row in await self._storage.do(Store.staged)}
        there = {(each.owner, each.name): each for each in found if not each.name.endswith(PARTIAL)}
        new = [_row(each) for key, each in there.items() if key not in rows]
        if new:
            await self._storage.do(Store.add_staged, new)
        now = time.time()
        over = [key for key, row in rows.items() if key in there and self.until_s(row) <= now and not self._held(*key)]
        left = [
            (each.owner, each.name) for each in found if each.name.endswith(PARTIAL) and each.written_s + LEFT_S < now
        ]
        over = await self._remove_unless_held(over)
        if left:
            await asyncio.to_thread(_remove, self._directory, left)
        # One that was noted a moment ago may not have been there when the disk was looked at.
        gone = [key for key, row in rows.items() if key not in there and row.written_s + LEFT_S < now]
        if over or gone:
            await self._storage.do(Store.forget_staged, [*over, *gone])
        removed = set(over)
        kept = [_row(each, rows.get(key)) for key, each in there.items() if key not in removed]
        self._tell(kept, await asyncio.to_thread(_room, self._directory))

    def _tell(self, kept: Iterable[StagedRow], room: tuple[int, int] | None) -> None:
        """What there is now. That there is hardly room for more is told in the log, once each time."""
        sizes = [row.size_bytes for row in kept]
        waiting = [row for row in kept if row.delivered_s is None]
        is_short = room is not None and room[0] < room[1] * LITTLE
        if room is not None and is_short and not self._is_short:
            _log.warning(
                "%s: %.1f GB are left on its disk, and undelivered results take %.1f GB: hpcserve results --everybody",
                self._directory,
                room[0] / 1e9,
                sum(row.size_bytes for row in waiting) / 1e9,
            )
        self._is_short = is_short
        self.tally = Tally(
            len(sizes),
            sum(sizes),
            len(waiting),
            sum(row.size_bytes for row in waiting),
            min((row.written_s for row in waiting), default=None),
            None if room is None else room[0],
        )

    def _warn(self, odd: dict[str, str]) -> None:
        """Of names that are no UTF-8 one of each owner is told, once until there is none."""
        for owner in sorted(odd.keys() - self._odd):
            _log.warning(
                "%s/%s has a name that is no UTF-8: it is no result, and left alone; remove it, and others like it",
                self._directory,
                _spelt(odd[owner]),
            )
        self._odd = frozenset(odd)

    async def rows(self, owner: str | None = None) -> list[StagedRow]:
        """The results that are on the disk now, those of one owner or of all; sizes as they are there.

        Of one owner no other directory is looked into: each caller may ask, as often as he likes.

        Raises:
            HpcserveError: The store cannot be read.
        """
        found, _ = await asyncio.to_thread(_listed, self._directory, owner)
        rows = {(row.owner, row.name): row for row in await self._storage.do(Store.staged, owner)}
        return [_row(each, rows.get((each.owner, each.name))) for each in found if not each.name.endswith(PARTIAL)]

    async def discard(self, keys: Iterable[tuple[str, str]]) -> int:
        """Removes these, by owner and name, but what has come to be on its way; returns how many there were.

        Raises:
            HpcserveError: The store cannot be written.
        """
        wanted = list(keys)
        there: set[tuple[str, str]] = set()
        for owner in {owner for owner, _ in wanted}:
            there |= {(row.owner, row.name) for row in await self.rows(owner)}
        removed = await self._remove_unless_held(key for key in wanted if key in there)
        await self._storage.do(Store.forget_staged, removed)
        return len(removed)

    async def _remove_unless_held(self, keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Looks again before each: a delivery may have begun while others were removed. Returns what was removed."""
        removed = []
        for key in keys:
            if not self._held(*key):
                await asyncio.to_thread(_remove, self._directory, [key])
                removed.append(key)
        return removed

    def until_s(self, row: StagedRow) -> float:
        """Until when one is kept that is not on its way; infinity: until it was delivered."""
        return staged_until_s(
            row.written_s,
            row.delivered_s,
            keep_s=self._staging.keep_s,
            keep_undelivered_s=self._staging.keep_undelivered_s,
        )


def _mark(directory: str, key: Path) -> None:
    public_key = keys.load(key).public_z85
    os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103 (text, as it stands in results)
    path = Path(directory) / MARK
    if not path.exists() or path.read_text() != public_key:
        private.replace(path, public_key.encode())


def _listed(directory: str, owner: str | None = None) -> tuple[list[Found], dict[str, str]]:
    """All files of one owner, or of all; and one path of each with names that are no UTF-8 (""; an owner's itself)."""
    found: list[Found] = []
    odd: dict[str, str] = {}
    try:
        above = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return found, odd
    try:
        for name in _owners(above) if owner is None else [owner]:
            if not _is_text(name):
                odd[""] = name
                continue
            with contextlib.suppress(OSError), _opened(above, name) as own, os.scandir(own) as files:
                for each in _files(name, files):
                    if _is_text(each.name):
                        found.append(each)
                    else:
                        odd[name] = f"{name}/{each.name}"
    finally:
        os.close(above)
    return found, odd


def _owners(above: int) -> list[str]:
    with os.scandir(above) as callers:
        return [each.name for each in callers if each.is_dir(follow_symlinks=False)]


def _files(owner: str, files: Iterable[os.DirEntry[str]]) -> Iterator[Found]:
    for each in files:
        with contextlib.suppress(FileNotFoundError):  # it has just been removed
            told = each.stat(follow_symlinks=False)
            if stat.S_ISREG(told.st_mode):
                yield Found(owner, each.name, told.st_blocks * 512, told.st_mtime)


def _is_text(name: str) -> bool:
    """Whether a name of a file is UTF-8; in one that is not, Python has put what no text may have."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _spelt(path: str) -> str:
    """A path for the log, whatever it consists of."""
    return printable(os.fsencode(path).decode(errors="backslashreplace"))


def _row(found: Found, known: StagedRow | None = None) -> StagedRow:
    """A file as it is on the disk; what is not known to the store was not delivered."""
    if known is not None:
        return msgspec.structs.replace(known, size_bytes=found.size_bytes)
    return StagedRow(owner=found.owner, name=found.name, size_bytes=found.size_bytes, written_s=found.written_s)


def _room(directory: str) -> tuple[int, int] | None:
    """How many bytes are free on its disk for others than root, and of how many; None: nobody knows."""
    try:
        told = os.statvfs(directory)
    except OSError:
        return None
    return told.f_bavail * told.f_frsize, told.f_blocks * told.f_frsize


def _remove(directory: str, keys: Iterable[tuple[str, str]]) -> None:
    with _opened(None, directory, follow=True) as above:
        for owner, name in keys:
            try:
                with _opened(above, owner) as own:
                    os.unlink(name, dir_fd=own)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("staged result %s cannot be removed: %s", _spelt(f"{owner}/{name}"), error)


@contextlib.contextmanager
def _opened(above: int | None, name: str, *, follow: bool = False) -> Iterator[int]:
    flags = _DIRECTORY & ~os.O_NOFOLLOW if follow else _DIRECTORY
    descriptor = os.open(name, flags, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
