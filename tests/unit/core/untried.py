"""Restarts of what is not tried again, for tests in which nothing is to be restarted."""

from __future__ import annotations


class Never:
    """A deployment, or pilots, that are given up at the first failure."""

    def failed(self, now: float) -> float | None:
        return None

    def crashed(self, now: float) -> float:
        return now

    def in_vain(self, crashes: int, *, worked: bool) -> int | None:
        return None

    def succeeded(self, now: float) -> None:
        pass

    def forgive(self) -> None:
        pass
