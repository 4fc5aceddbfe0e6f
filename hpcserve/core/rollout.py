"""One deployment in the controller's books, and which of its versions answers while one replaces another.

Callers see a single version's methods at a time, those of the *serving* one:

* it is the wanted version as soon as one replica of it is ready, or when no other has a ready replica;
* until then it is the one that served before, and replicas with other methods get no work;
* from then on replicas with other methods get no new work. Those with the same methods go on beside it.

A wanted version that cannot be started leaves the one that *served* last in its place: that is the *fallback*,
and its replicas are replaced as before. Which one that is outlives the controller, and all replicas.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hpcserve.core.scaling import Scaler
from hpcserve.core.width import Ranks
from hpcserve.types import DeploymentName


class Version(NamedTuple):
    """A servable's version; two versions with the same ``signature`` have the same methods."""

    digest: str
    signature: str = ""
    ranks: Ranks = Ranks()


class Restarts(Protocol):
    """How long to wait after failures of a deployment's replicas, and when to give up."""

    def failed(self, now: float) -> float | None:
        """Counts what never began to work; returns when to try again, or None to give up."""

    def crashed(self, now: float) -> float:
        """Counts the end of what had begun to work; returns when to try again."""

    def in_vain(self, crashes: int, *, worked: bool) -> int | None:
        """Counts the ends of what had begun to work and did not get anything done; ``worked``: it did, since the last.

        Returns:
            How many there were in a row, where these are too many.
        """

    def succeeded(self, now: float) -> None:
        """What was started works. Whether a failure soon after is one in a row is decided there."""


class PilotRestarts(Protocol):
    """How long to wait after failures of pilots, and when to give up."""

    def failed(self, now: float) -> float | None:
        """Counts what never began to work; returns when to try again, or None to give up."""

    def succeeded(self, now: float) -> None:
        """A pilot works."""

    def forgive(self) -> None:
        """Counts from nothing again."""


class Failure(NamedTuple):
    """Why replicas of the wanted version cannot be started, and what is kept running instead."""

    reason: str
    traceback: str
    crashes: bool
    fallback: Version


@dataclass(kw_only=True)
class FleetDeployment:
    """A deployment in the books.

    Attributes:
        restarts_count: How many of its replicas ended unasked.
        lasting: How many of them in a row have said, before they were ready, that the next would fail in the same way.
        unjudged: How many of those had been ready, and ended since it was last asked what was answered.
        answered: So many requests had been answered when it was asked; None: not asked since the target was new,
            and others may have answered before it.
        failed: Replicas of ``version`` cannot be started.
        pilots_ended: It is the pilots that end, not the servable that fails.
        own: It had failed by itself, before its fallback did with the pilots.
        again_s: Once it has failed it is tried again from then on; infinite: it is to be deployed anew.
        crashes: They can be started, but end without a request answered.
        fallback: What is kept running instead.
        scaler: Decides ``replicas`` anew whenever something was counted; None: their number is fixed.
        share: So many of them there is room for, as others want some, too; None: for all.
        waits_since_s: Since when it is to have replicas and has none; infinite where it is not so.
        served: The version that served last while a replica was ready; None: none ever did.
    """

    name: DeploymentName
    version: Version
    replicas: int
    restarts: Restarts
    not_before_s: float = 0.0
    reason: str = ""
    traceback: str = ""
    failed: bool = False
    pilots_ended: bool = False
    own: Failure | None = None
    again_s: float = math.inf
    crashes: bool = False
    restarts_count: int = 0
    lasting: int = 0
    unjudged: int = 0
    answered: int | None = None
    fallback: Version | None = None
    scaler: Scaler | None = None
    share: int | None = None
    waits_since_s: float = math.inf
    served: Version | None = None

    @property
    def target(self) -> Version | None:
        """The version whose replicas are started; None when none can be."""
        return self.fallback if self.failed else self.version

    @property
    def ranks(self) -> Ranks:
        """The ranks of each replica that it is to have."""
        return (self.target or self.version).ranks

    @property
    def due(self) -> int:
        """So many replicas it is to have now: what it wants, or what there is room for."""
        return self.replicas if self.share is None else min(self.share, self.replicas)

    @property
    def is_paused(self) -> bool:
        """Whether it was said that it is to have no replica; one with a scaler may have some again by itself."""
        return not self.replicas and self.scaler is None

    @property
    def may_sleep(self) -> bool:
        """Whether it has no replica when nobody asks, and gets some when somebody does."""
        return self.scaler is not None and self.scaler.bounded(0) == 0

    @property
    def own_failure(self) -> Failure | None:
        """Why the wanted version cannot be started, where another is kept running, or would be but for the pilots."""
        if self.failed and self.fallback is not None:
            return Failure(self.reason, self.traceback, self.crashes, self.fallback)
        return self.own

    def try_again(self) -> None:
        """It has failed with the pilots, and goes on as it was; what may sleep sleeps, until somebody asks."""
        own = self.own
        self.failed, self.pilots_ended, self.again_s = own is not None, False, math.inf
        self.reason, self.traceback, self.crashes, self.fallback = own or ("", "", False, None)
        if self.scaler is not None:
            self.scaler.forget()

    @property
    def promised(self) -> int:
        """So many replicas it gets before any room is shared: all where their number is fixed, else the minimum."""
        return self.replicas if self.scaler is None else min(self.replicas, self.scaler.bounded(0))

    def serving(self, ready: Iterable[Version]) -> Version:
        """The version whose methods callers see.

        Args:
            ready: The version of each replica that is ready and gets work or could.
        """
        wanted = self.target or self.version
        count = Counter(ready)
        if not count or wanted in count:
            return wanted
        return max(count, key=lambda version: (count[version], version))

    def fail(
        self,
        reason: str,
        traceback: str,
        *,
        pilots_ended: bool,
        crashes: bool = False,
        again_s: float = math.inf,
    ) -> None:
        """Replicas of the target cannot be started; where it is the pilots that end, those of no other could."""
        self.own = self.own_failure if pilots_ended else None
        self.fallback = None if pilots_ended or self.target in (None, self.served) else self.served
        self.failed = True
        self.pilots_ended = pilots_ended
        self.again_s = again_s
        self.crashes = crashes
        self.reason = reason
        self.traceback = traceback
        self.not_before_s = 0.0
