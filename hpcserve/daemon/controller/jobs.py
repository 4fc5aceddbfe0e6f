"""A pilot's job, as far as it is known here. Asks nobody."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from hpcserve.cluster.seam import JobId, JobState
from hpcserve.core.breaker import Breaker
from hpcserve.registry.rows import PilotRow

CUT_OFF = "the daemon was cut off while it submitted it"


@dataclass
class Job:
    """A pilot that has not ended.

    ``name`` is None until the scheduler is known to have taken it; ``doubt``: why that is open, and
    ``since_s`` since when, on the monotonic clock. ``cancel_at_s``: on the
    monotonic clock, when it is to be cancelled, or cancelled again if it is still there; None: it is not to end.
    ``deletion`` says how long to wait after one that failed.
    ``seen_s``: when the scheduler told its state; ``ran_s``: when it was asked last and said that this run of it runs.
    ``told``: the log has that this run of it has begun.
    """

    row: PilotRow
    name: JobId | None
    state: JobState = field(default_factory=lambda: JobState(phase="queued"))
    enrolling: asyncio.Lock = field(default_factory=asyncio.Lock)
    doubt: str = CUT_OFF
    since_s: float = 0.0
    cancel_at_s: float | None = None
    deletion: Breaker = field(default_factory=lambda: Breaker(0.0))
    seen_s: float = 0.0
    ran_s: float = -math.inf
    told: bool = False

    @property
    def starts_in_s(self) -> float | None:
        """When it will start, as the scheduler guessed when it was asked last, from now on; None: that has passed."""
        guess_s = self.state.starts_in_s
        left_s = None if guess_s is None else guess_s - (time.monotonic() - self.seen_s)
        return None if left_s is None or left_s < 0.0 else left_s
