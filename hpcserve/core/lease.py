"""Who may be the daemon of a state directory: epochs, each taken once.

A lease of epoch n is held until somebody takes epoch n + 1, which only one can do (the file system sees to
that). Taking is allowed when the holder has given up, is known to be dead, or has been *watched* without a
sign of life for as long as its lease lasts. Watched, however old it looks: two hosts' clocks differ by any amount,
and a file system that was away for hours let no holder renew.

A holder never loses by time alone. If the shared file system is away for a minute, nobody can take its lease
either; it goes on, and what the successor must win is the next epoch. Nor does the time count in which who
watches could not look, or not write: the holder may have stood still for the same reason.
"""

from __future__ import annotations

import msgspec

from hpcserve.types import Epoch

LONGEST_GAP_S = 1.0
"""Of the time between two looks at somebody else's lease, no more counts as watched."""
EPOCH_BITS = 20
"""An epoch of the broker is the lease's, followed by the number of its start in so many bits."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder says of itself.

    ``boot`` and ``namespace`` name the kernel's run and the PID namespace in which ``pid``, started at
    ``started``, means something. ``since_s`` and ``renewed_s`` are the holder's wall clock. ``service`` is the public
    key of the daemon, by which one state directory is told from another.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: str
    since_s: float
    renewed_s: float
    lease_s: float
    released: bool = False
    service: str = ""


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """The greatest epoch there is, as one who wants to be next sees it.

    Attributes:
        epoch: Its number.
        lease: Its content; None when it is not readable.
        lives: Whether its holder is alive; None when it cannot be seen from here.
        renewed: Whether it changed while we watched.
        unchanged_s: How long it has been watched without a change, by our own clock: see :func:`watched`.
        age_s: How long ago it was renewed, if all clocks were right. It decides nothing.
    """

    epoch: int
    lease: Lease | None
    lives: bool | None
    renewed: bool
    unchanged_s: float
    age_s: float


class Take(msgspec.Struct, frozen=True):
    """Try to take this epoch."""

    epoch: int


class Watch(msgspec.Struct, frozen=True):
    """It may be dead: look again within so many seconds."""

    for_s: float


class Held(msgspec.Struct, frozen=True):
    """Somebody else holds it."""

    lease: Lease | None


class Foreign(msgspec.Struct, frozen=True):
    """Nobody holds it, but the last one who did had another state directory: that one's pilots and clients."""

    lease: Lease


Decision = Take | Watch | Held | Foreign


def decide(sighting: Sighting | None, *, last_epoch: int, lease_s: float, service: str) -> Decision:
    """Whether to take the lease.

    Args:
        sighting: The greatest epoch that there is, or None without any.
        last_epoch: The greatest that this state directory is known to have had; the shared directory may
            have been purged since.
        lease_s: How long to watch a lease that does not say so itself.
        service: The public key of whoever wants it.
    """
    if sighting is None:
        return Take(last_epoch + 1)
    lease = sighting.lease
    following: Decision = Take(max(sighting.epoch, last_epoch) + 1)
    if lease is not None and lease.service not in ("", service):
        following = Foreign(lease)
    if lease is not None:
        if lease.released or sighting.lives is False:
            return following
        if sighting.lives:
            return Held(lease)
        lease_s = lease.lease_s
    if sighting.renewed:
        return Held(lease)
    if sighting.unchanged_s >= lease_s:
        return following
    return Watch(lease_s - sighting.unchanged_s)


def watched(unchanged_s: float, gap_s: float) -> float:
    """How long a lease has been watched without a change, when one more look has shown none after ``gap_s``."""
    return unchanged_s + min(gap_s, LONGEST_GAP_S)


def renewed_every_s(lease_s: float) -> float:
    """How often a holder renews a lease that lasts so long."""
    return lease_s / 3


def broker_epoch(own_epoch: int, starts: int) -> Epoch:
    """The epoch of the broker that is the ``starts``-th of the lease ``own_epoch``."""
    return Epoch((own_epoch << EPOCH_BITS) + starts)


def lease_epoch(epoch: Epoch) -> int:
    """The epoch of the lease that a broker of this epoch serves under."""
    return epoch >> EPOCH_BITS


def lost(own_epoch: int, greatest: int | None) -> bool:
    """Whether the holder of ``own_epoch``, who sees ``greatest``, must end at once."""
    return greatest is not None and greatest > own_epoch
