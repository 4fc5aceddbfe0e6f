"""The calls about staged results: to list them, and to give some up. Each caller has to do with its own."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Protocol

from hpcserve.config import Site
from hpcserve.core.access import Decision
from hpcserve.core.spelling import shortened
from hpcserve.daemon.access import own_directory
from hpcserve.daemon.controller.guard import Asking, Guard
from hpcserve.daemon.controller.staged import StagedFiles
from hpcserve.errors import Conflict, InvalidInput, PermissionDenied
from hpcserve.registry.rows import StagedRow
from hpcserve.wire import results as verbs

MOST_PATHS = 1000
MOST_SHOWN = 10_000


class Transfers(Protocol):
    """What is on its way to collections, or did not arrive there; files by their owners and names."""

    def holds(self, owner: str, name: str) -> bool:
        """Whether a file must stay."""

    async def discarded(self, keys: Iterable[tuple[str, str]]) -> None:
        """These are gone: they cannot be sent once more."""


class Results:
    """Answers the calls.

    Args:
        site: Where staged results are.
        guard: Who is an administrator; it writes down what was decided.
        files: The staged results.
        transfers: Those of the files.
    """

    def __init__(self, site: Site, guard: Guard, files: StagedFiles, transfers: Transfers) -> None:
        self._directory = site.staging_dir
        self._guard = guard
        self._files = files
        self._transfers = transfers

    async def listed(self, arguments: verbs.AskResults, asking: Asking) -> verbs.ResultList:
        """Those of the caller, or of everybody."""
        if arguments.everybody:
            await self._guard.check_everybody(asking, "results")
        owner = None if arguments.everybody else own_directory(asking.asker.identity)
        before_s = time.time() - arguments.older_s
        found = [
            row
            for row in await self._files.rows(owner)
            if row.written_s <= before_s and not (arguments.undelivered and row.delivered_s is not None)
        ]
        found.sort(key=lambda row: (row.written_s, row.owner, row.name))
        shown = tuple(self._view(row) for row in found[:MOST_SHOWN])
        return verbs.ResultList(results=shown, more=len(found) - len(shown))

    def _view(self, row: StagedRow) -> verbs.ResultView:
        until_s, held = self._files.until_s(row), self._transfers.holds(row.owner, row.name)
        return verbs.ResultView(
            owner=row.owner,
            path=f"{self._directory}/{row.owner}/{row.name}",
            size_bytes=row.size_bytes,
            written_s=row.written_s,
            delivered_s=row.delivered_s,
            until_s=None if held or math.isinf(until_s) else until_s,
            held=held,
        )

    async def discard(self, arguments: verbs.Discard, asking: Asking) -> verbs.Discarded:
        """Some are not wanted any more: all of them are removed, or none."""
        if not 1 <= len(arguments.paths) <= MOST_PATHS:
            raise InvalidInput(f"paths has {len(arguments.paths)} entries; expected from 1 to {MOST_PATHS}")
        keys = [await self._allowed(path, asking) for path in arguments.paths]
        for path, key in zip(arguments.paths, keys, strict=True):
            if self._transfers.holds(*key):
                raise Conflict(
                    f"{path} is on its way to a collection, or waits for that; cancel it first: hpcserve transfers, "
                    "then hpcserve transfers --cancel ID"
                )
        removed = await self._files.discard(keys)
        await self._transfers.discarded(keys)
        return verbs.Discarded(removed=removed)

    async def _allowed(self, path: str, asking: Asking) -> tuple[str, str]:
        """The owner and the name of a file that the caller may discard; the line is written."""
        own = own_directory(asking.asker.identity)
        owner, _, name = path.removeprefix(f"{self._directory}/").partition("/")
        is_result = path == f"{self._directory}/{owner}/{name}" and name and "/" not in name and "\0" not in path
        decision = self._guard.judge_owned(asking, own=owner == own)
        if not is_result or name.startswith(".") or owner in ("", ".", "..") or not decision.allowed:
            decision = Decision(allowed=False, by="owner", reason="no staged result of the caller's")
        await self._guard.note(asking, "discard", path, decision)
        if not decision.allowed:
            raise PermissionDenied(f"{shortened(path)} is no staged result of yours; see: hpcserve results")
        return owner, name
