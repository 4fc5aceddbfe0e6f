"""What keeps the replicas of a deployment from being there, told to who waits for them: once it lasts, and anew."""

from __future__ import annotations

import re

LASTS_S = 10.0
"""What a start takes as a rule is not told."""
_PASSES = re.compile(r" \(expected to start in [^)]*\)|[\d.,:]+")
"""Guesses and numbers are others at each look."""


class Hindrance:
    """Decides when it is told."""

    def __init__(self) -> None:
        self._seen, self._since_s = "", 0.0
        self._told = ""

    def news(self, error: str, now_s: float) -> str:
        """What is to be told now; empty: nothing.

        Args:
            error: What the daemon says at this look; empty: nothing is in the way.
            now_s: Seconds, on a clock that is never set back.
        """
        first = error.partition("\n")[0]
        same = _PASSES.sub("", first)
        if same != self._seen:
            self._seen, self._since_s = same, now_s
        if not same or same == self._told or now_s - self._since_s < LASTS_S:
            return ""
        self._told = same
        return first

    def is_told(self, error: str) -> None:
        """It was said otherwise."""
        self._told = _PASSES.sub("", error.partition("\n")[0])
