"""Who may be the daemon of a state directory: epochs, each taken once.

A lease of epoch n is held until somebody takes epoch n + 1, which only one can do (the file system sees to
that). Taking is allowed when the holder has given up, is known to be dead, or has been *watched* without a
sign of life for as long as its lease lasts. Watched, since two hosts' clocks differ by any amount; only a
lease that by the wall clock is ``STALE_S`` too old is taken unwatched, as no clock of a facility is that wrong.

A holder never loses by time alone. If the shared file system is away for a minute, nobody can take its lease
either; it goes on, and what the successor must win is the next epoch.
"""

from __future__ import annotations

import msgspec

STALE_S = 3600.0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder says of itself.

    ``boot`` and ``namespace`` name the kernel's run and the PID namespace in which ``pid``, started at
    ``started``, means something. ``since_s`` and ``renewed_s`` are the holder's wall clock.
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


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """The greatest epoch there is, as one who wants to be next sees it.

    Attributes:
        epoch: Its number.
        lease: Its content; None when it is not readable.
        lives: Whether its holder is alive; None when it cannot be seen from here.
        renewed: Whether it changed while we watched.
        unchanged_s: How long it has been watched without a change, by our own clock.
        age_s: How long ago it was renewed, if all clocks were right.
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


Decision = Take | Watch | Held


def decide(sighting: Sighting | None, *, last_epoch: int, lease_s: float) -> Decision:
    """Whether to take the lease.

    Args:
        sighting: The greatest epoch that there is, or None without any.
        last_epoch: The greatest that this state directory is known to have had; the shared directory may
            have been purged since.
        lease_s: How long to watch a lease that does not say so itself.
    """
    if sighting is None:
        return Take(last_epoch + 1)
    following = Take(max(sighting.epoch, last_epoch) + 1)
    lease = sighting.lease
    if lease is not None:
        if lease.released or sighting.lives is False:
            return following
        if sighting.lives:
            return Held(lease)
        lease_s = lease.lease_s
    if sighting.renewed:
        return Held(lease)
    if sighting.age_s > lease_s + STALE_S or sighting.unchanged_s >= lease_s:
        return following
    return Watch(lease_s - sighting.unchanged_s)


def lost(own_epoch: int, greatest: int | None) -> bool:
    """Whether the holder of ``own_epoch``, who sees ``greatest``, must end at once."""
    return greatest is not None and greatest > own_epoch
