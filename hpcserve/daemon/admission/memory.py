"""The keys that were let in, on disk: so that a new run of admission can put out who is not to stay in.

A line is a key in Z85, followed for one that is in for a time only by when that ends, in seconds since 1970. The time
may be older than the truth, and never younger: it is not written at each renewal. Of two lines of a key the last
counts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from hpcserve.auth.keys import from_z85, to_z85
from hpcserve.auth.private import read_private, replace
from hpcserve.errors import HpcserveError

_log = logging.getLogger(__name__)

FOR_EVER = float("inf")


class Memory:
    """A file of public keys, and until when each is in, in seconds since 1970."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.keys = self._read()

    def remember(self, keys: Mapping[bytes, float]) -> None:
        """Writes the keys, if they are others than before, or in for another time."""
        keys = {key: until if until == FOR_EVER else float(int(until)) for key, until in keys.items()}
        if keys == self.keys:
            return
        self.keys = keys
        try:
            replace(self._path, "".join(map(_line, sorted(keys.items()))).encode("ascii"))
        except HpcserveError as error:
            _log.error("%s; an admission that restarts now would not know whom to put out", error)

    def add(self, keys: Mapping[bytes, float]) -> None:
        """Notes further keys. Cheap: a thousand that come at once must not wait for a disk."""
        self.keys |= keys
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(self._path, flags, 0o600), "ab") as file:
                file.write("".join(map(_line, keys.items())).encode("ascii"))
        except OSError as error:
            _log.error("%s: %s; an admission that restarts now would not know whom to put out", self._path, error)

    def _read(self) -> dict[bytes, float]:
        try:
            lines = read_private(self._path, secret=True).decode().splitlines()
            words = [line.split() for line in lines]
            return {from_z85(key): float(until[0]) if until else FOR_EVER for key, *until in words}
        except FileNotFoundError:
            return {}
        except (HpcserveError, ValueError) as error:
            _log.warning("%s is not read: %s", self._path, error)
            return {}


def _line(entry: tuple[bytes, float]) -> str:
    key, until = entry
    return f"{to_z85(key)}\n" if until == FOR_EVER else f"{to_z85(key)} {until:.0f}\n"
