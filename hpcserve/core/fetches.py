"""Which staged results are being fetched by HTTPS, so that who fetches may read them until the last has come.

A client tells when it has one. One that does not is not waited for longer than a fetch may take.
"""

from __future__ import annotations

LONGEST_S = 3600.0


class Fetches:
    """Those of all owners. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._until: dict[str, list[tuple[str, bytes, float]]] = {}

    def begin(self, owner: str, path: str, now: float, by: bytes = b"") -> None:
        """A result may be fetched from now on, ``by`` a session: one that asks again fetches it once."""
        open_ = self._until.setdefault(owner, [])
        open_[:] = [each for each in open_ if not by or each[:2] != (path, by)]
        open_.append((path, by, now + LONGEST_S))

    def end(self, owner: str, path: str) -> None:
        """One has come: the first of those of this path, if several programs fetch it."""
        open_ = self._until.get(owner, [])
        found = next((each for each in open_ if each[0] == path), None)
        if found is not None:
            open_.remove(found)
            if not open_:
                del self._until[owner]

    def give_up(self, owner: str, path: str, by: bytes = b"") -> None:
        """What a session was about to fetch it cannot; the owner is one of those of :meth:`over`, if it was all."""
        open_ = self._until.get(owner, [])
        found = next((each for each in open_ if each[:2] == (path, by)), None)
        if found is not None:
            open_.remove(found)

    def is_open(self, owner: str, now: float) -> bool:
        """Whether something of an owner's is still being fetched."""
        return any(until > now for _, _, until in self._until.get(owner, ()))

    def over(self, now: float) -> list[str]:
        """The owners of whom nothing is waited for any more, though something did not come; they are forgotten."""
        owners = [owner for owner in self._until if not self.is_open(owner, now)]
        for owner in owners:
            del self._until[owner]
        return owners
