"""How often what fails is tried again: a deployment's replicas, and the pilots."""

from __future__ import annotations

from hpcserve.core import restarts

NEVER_READY = restarts.Policy(first_s=0.1, longest_s=10.0, stable_s=10.0, most=5, window_s=60.0)
WAS_READY = restarts.Policy(first_s=0.05, longest_s=1.0, stable_s=10.0, most=None)

MOST_IN_VAIN, MOST_OF_PROVEN = 5, 25
"""So many replicas that were ready may end in a row, without a request answered between. The second: of a deployment
that has answered some before, so that the bad inputs of one caller do not end what works for others."""


class Failures:
    """Counts the failures of one deployment, or of the pilots, for :class:`Fleet`."""

    def __init__(self, policy: restarts.Policy) -> None:
        self._never_ready = restarts.Restarts(policy)
        self._was_ready = restarts.Restarts(WAS_READY)
        self._row = 0
        self._is_proven = False

    def failed(self, now: float) -> float | None:
        """When to try again; None: not any more."""
        verdict = self._never_ready.exited(now)
        return verdict.at_s if isinstance(verdict, restarts.RestartAt) else None

    def crashed(self, now: float) -> float:
        """When to try again."""
        verdict = self._was_ready.exited(now)
        assert isinstance(verdict, restarts.RestartAt), "WAS_READY never gives up"
        return verdict.at_s

    def in_vain(self, crashes: int, *, worked: bool) -> int | None:
        """How many ended in a row without anything done, where that is too many; ``worked``: something was, since."""
        if worked:
            self._row, self._is_proven = 0, True
        self._row += crashes
        return self._row if self._row >= (MOST_OF_PROVEN if self._is_proven else MOST_IN_VAIN) else None

    def succeeded(self, now: float) -> None:
        """What was started works."""
        self._never_ready.started(now)
        self._was_ready.started(now)


MOST_PILOTS, FIRST_PILOT_S, LONGEST_PILOT_S = 3, 0.5, 30.0


class PilotFailures:
    """Counts the pilots that failed in a row, however long each of them waited in the queue, for :class:`Fleet`."""

    def __init__(self) -> None:
        self._row = 0

    def failed(self, now: float) -> float | None:
        """When to try again; None: not any more."""
        self._row += 1
        if self._row >= MOST_PILOTS:
            return None
        return now + min(LONGEST_PILOT_S, FIRST_PILOT_S * 2.0 ** (self._row - 1))

    def succeeded(self, now: float) -> None:
        """A replica in a pilot is ready."""
        self._row = 0

    def forgive(self) -> None:
        """All are forgotten."""
        self._row = 0
