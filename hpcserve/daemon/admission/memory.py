"""The keys that were let in, on disk: so that a new run of admission can put out who was struck off meanwhile."""

from __future__ import annotations

import logging
from pathlib import Path

from hpcserve.auth.keys import from_z85, to_z85
from hpcserve.auth.private import read_private, replace
from hpcserve.errors import HpcserveError

_log = logging.getLogger(__name__)


class Memory:
    """A file of public keys, a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.keys = self._read()

    def remember(self, keys: frozenset[bytes]) -> None:
        """Writes the keys, if they are others than before."""
        if keys == self.keys:
            return
        self.keys = keys
        try:
            replace(self._path, "".join(f"{to_z85(key)}\n" for key in sorted(keys)).encode("ascii"))
        except HpcserveError as error:
            _log.error("%s; an admission that restarts now would not know whom to put out", error)

    def _read(self) -> frozenset[bytes]:
        try:
            return frozenset(from_z85(line) for line in read_private(self._path, secret=True).decode().split())
        except FileNotFoundError:
            return frozenset()
        except (HpcserveError, ValueError) as error:
            _log.warning("%s is not read: %s", self._path, error)
            return frozenset()
