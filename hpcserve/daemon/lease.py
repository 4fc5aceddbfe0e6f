"""The lease of a state directory as files in the shared directory: ``lease-00000007.json`` is epoch 7.

A lease is written whole under another name and then hard-linked to its own, which succeeds for one process
only, on NFS too. To renew it, its holder replaces it by a file with a new time, which also makes an NFS
client look at the directory afresh; on a full disk, its times are touched instead. Files below the greatest
epoch are deleted, the greatest never: epochs only grow. Who may take one is decided in
:mod:`hpcserve.core.lease`.

A file system may stand still for a minute, for its holder alone or for all. Whoever looks therefore writes first, by
touching the directory: a look that comes back has waited for the file system, and is no older than that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpcserve.auth.private import create, replace, storage_error
from hpcserve.cluster.processes import boot_id, is_stopped, pid_namespace, start_time
from hpcserve.core.lease import Decision, Foreign, Held, Lease, Sighting, Take, decide, lost, renewed_every_s, watched
from hpcserve.daemon.processes import how_to_go_on, how_to_replace
from hpcserve.errors import ConfigError, Conflict, StorageFull

_NAME = re.compile(r"lease-(\d{8,})\.json")
_MEMORY = "lease-epoch"
_LOOK_S = 0.5

_Seen = tuple[bytes | None, int]


def is_taken(shared_dir: Path, epoch: int) -> bool:
    """Whether somebody has taken the lease from the holder of ``epoch``. It may wait for the file system.

    In a directory that was moved away or removed nobody can have.

    Raises:
        HpcserveError: It cannot be told now.
    """
    _touch(shared_dir)
    return lost(epoch, _greatest(shared_dir))


class HeldLease:
    """A lease that is ours. Made by :func:`acquire`."""

    def __init__(self, shared_dir: Path, epoch: int, lease: Lease) -> None:
        self.epoch = epoch
        self._shared_dir = shared_dir
        self._path = _path(shared_dir, epoch)
        self._lease = lease

    @property
    def every_s(self) -> float:
        """How often to renew it."""
        return renewed_every_s(self._lease.lease_s)

    @property
    def pid(self) -> int:
        """The process that holds it: this one."""
        return self._lease.pid

    def renew(self) -> bool:
        """Says that we live; False when somebody else has taken the next epoch, and we must end at once.

        Raises:
            HpcserveError: The lease cannot be written now. It is ours all the same.
        """
        if lost(self.epoch, _greatest(self._shared_dir)):
            return False
        self._lease = msgspec.structs.replace(self._lease, renewed_s=time.time())
        try:
            replace(self._path, msgspec.json.encode(self._lease))
        except StorageFull:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._path)
        # Again, as the first look may have been into a cache of the directory.
        return not lost(self.epoch, _greatest(self._shared_dir))

    def successor(self) -> str:
        """Where the daemon runs that took the lease from us."""
        greatest = _greatest(self._shared_dir)
        lease = None if greatest is None else _parse(_look(_path(self._shared_dir, greatest))[0])
        return "another host" if lease is None else f"{lease.host} as pid {lease.pid}"

    def release(self) -> None:
        """Gives the lease up; the next daemon need not wait.

        Raises:
            HpcserveError: It cannot be written; the next daemon waits, or finds this process dead.
        """
        if not lost(self.epoch, _greatest(self._shared_dir)):
            replace(self._path, msgspec.json.encode(msgspec.structs.replace(self._lease, released=True)))


def acquire(
    shared_dir: Path,
    *,
    state_dir: Path,
    service: str,
    lease_s: float,
    wait: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] = lambda _: None,
) -> HeldLease:
    """Takes the lease, after watching a holder of another host that may be dead.

    Args:
        shared_dir: Where the lease files are.
        state_dir: Where the greatest epoch is remembered: the shared directory may be purged.
        service: The service's public key, which is in the state directory too.
        lease_s: How long the lease lasts without being renewed.
        wait: Sleeps for so many seconds; what it raises ends the attempt.
        tell: Told once, in words, whose lease is watched and for how long, if it is.

    Raises:
        Conflict: Another daemon has it.
        ConfigError: The last daemon that had it had another state directory.
        HpcserveError: The directory cannot be read or written.
    """
    other: _Watched | None = None

    def decided() -> Decision:
        nonlocal other
        _touch(shared_dir)
        epoch = _greatest(shared_dir)
        if epoch is not None and (other is None or other.epoch != epoch):
            other = _Watched(_path(shared_dir, epoch), epoch)
        sighting = None if epoch is None or other is None else other.look()
        return decide(sighting, last_epoch=_remembered(state_dir), lease_s=lease_s, service=service)

    is_told = False
    while True:
        decision = decided()
        if isinstance(decision, Held):
            raise _held(decision.lease)
        if isinstance(decision, Foreign):
            raise _foreign(decision.lease, shared_dir, state_dir)
        if isinstance(decision, Take):
            lease = _own(lease_s, service)
            mine = _path(shared_dir, decision.epoch)
            # Our own write may have waited for a file system that stood still, and the holder's with it: look again.
            if not create(mine, msgspec.json.encode(lease), only_if=lambda: decided() == decision):  # noqa: B023 (now)
                continue
            if lost(decision.epoch, _greatest(shared_dir)):  # what we saw before came from an old cache
                mine.unlink(missing_ok=True)
            else:
                replace(state_dir / _MEMORY, b"%d\n" % decision.epoch)
                _prune(shared_dir, decision.epoch)
                return HeldLease(shared_dir, decision.epoch, lease)
        else:
            if not is_told:
                is_told = True
                tell(_watching(sighted(shared_dir), decision.for_s))
            wait(min(_LOOK_S, decision.for_s))


def sighted(shared_dir: Path) -> Sighting | None:
    """The lease as it is now; None where there is none.

    Raises:
        ConfigError: The directory cannot be read.
    """
    epoch = _greatest(shared_dir)
    return None if epoch is None else _Watched(_path(shared_dir, epoch), epoch).look()


class Seen(NamedTuple):
    """What somebody else's lease did while it was watched, ``for_s`` without a change at its end.

    ``long_enough``: whether that tells anything, as it was watched for as long as it lasts, or given back.
    """

    renewed: bool
    released: bool
    for_s: float
    long_enough: bool


def watch(shared_dir: Path, until: float, *, wait: Callable[[float], None] = time.sleep) -> Seen:
    """Watches a lease until it is renewed, or was not for as long as it lasts; no longer than ``until``, monotonic.

    Raises:
        HpcserveError: The directory cannot be looked at.
    """
    watched_one: _Watched | None = None
    while True:
        _touch(shared_dir)
        epoch = _greatest(shared_dir)
        if epoch is None:
            return Seen(renewed=False, released=True, for_s=0.0, long_enough=True)
        if watched_one is not None and watched_one.epoch != epoch:
            return Seen(renewed=True, released=False, for_s=0.0, long_enough=True)  # another one has just taken it
        watched_one = watched_one or _Watched(_path(shared_dir, epoch), epoch)
        sighting = watched_one.look()
        lease = sighting.lease
        released, lasts_s = (False, 0.0) if lease is None else (lease.released, lease.lease_s)
        is_over = released or sighting.renewed or (lease is not None and sighting.unchanged_s >= lasts_s)
        if is_over or time.monotonic() >= until:
            return Seen(sighting.renewed and not released, released, sighting.unchanged_s, is_over)
        wait(_LOOK_S)


class _Watched:
    """Somebody else's lease, looked at again and again."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.epoch = epoch
        self._path = path
        self._first = self._last = _look(path)
        self._looked_at = time.monotonic()
        self._unchanged_s = 0.0

    def look(self) -> Sighting:
        seen = _look(self._path)
        now = time.monotonic()
        gap_s, self._looked_at = now - self._looked_at, now
        self._unchanged_s = watched(self._unchanged_s, gap_s) if seen == self._last else 0.0
        self._last = seen
        lease = _parse(seen[0])
        return Sighting(
            epoch=self.epoch,
            lease=lease,
            lives=None if lease is None else _lives(lease),
            renewed=seen != self._first,
            unchanged_s=self._unchanged_s,
            age_s=0.0 if lease is None else time.time() - max(lease.renewed_s, seen[1] / 1e9),
        )


def _own(lease_s: float, service: str) -> Lease:
    now = time.time()
    return Lease(
        host=socket.gethostname(),
        boot=boot_id(),
        namespace=pid_namespace(),
        pid=os.getpid(),
        started=start_time(os.getpid()) or "",
        since_s=now,
        renewed_s=now,
        lease_s=lease_s,
        service=service,
    )


def _lives(lease: Lease) -> bool | None:
    """Whether the holder is alive, where this process can see that."""
    if not lease.boot or (lease.boot, lease.namespace) != (boot_id(), pid_namespace()):
        return None
    return start_time(lease.pid) == lease.started


def _path(shared_dir: Path, epoch: int) -> Path:
    return shared_dir / f"lease-{epoch:08d}.json"


def _touch(shared_dir: Path) -> None:
    """Changes the directory, which waits for its file system; what an NFS client remembered of it counts no more.

    Raises:
        HpcserveError: It cannot be changed.
    """
    try:
        os.utime(shared_dir)
    except OSError as error:
        if error.errno not in {*StorageFull.errnos, errno.ENOENT}:
            raise storage_error(error, f"cannot look for leases in {shared_dir}") from error


def _epochs(shared_dir: Path) -> dict[int, Path]:
    try:
        names = [_NAME.fullmatch(entry.name) for entry in shared_dir.iterdir()]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot look for leases in {shared_dir}: {error.strerror}") from error
    return {int(match[1]): shared_dir / match[0] for match in names if match is not None}


def _greatest(shared_dir: Path) -> int | None:
    return max(_epochs(shared_dir), default=None)


def _look(path: Path) -> _Seen:
    """The content and the time of change of a file; opening it asks an NFS server for the present state."""
    try:
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None, 0


def _parse(content: bytes | None) -> Lease | None:
    try:
        return None if content is None else msgspec.json.decode(content, type=Lease)
    except msgspec.MsgspecError:
        return None


def _remembered(state_dir: Path) -> int:
    try:
        return int((state_dir / _MEMORY).read_bytes())
    except (FileNotFoundError, ValueError):
        return 0


def _prune(shared_dir: Path, epoch: int) -> None:
    for older, path in _epochs(shared_dir).items():
        if older < epoch:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _held(lease: Lease | None) -> Conflict:
    if lease is None:
        return Conflict("another process renews the lease of this state directory, in a format that we cannot read")
    since = datetime.fromtimestamp(lease.since_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    told = f"a daemon of this state directory already runs on {lease.host} as pid {lease.pid} (since {since})"
    if _lives(lease) and is_stopped(lease.pid):
        told = f"{told}, and was stopped by somebody (SIGSTOP)"
        return Conflict(f"{told}: {how_to_go_on(lease.pid)}, {how_to_replace(lease.pid)}")
    return Conflict(f"{told}: use `hpcserve status` or `hpcserve down`")


def _watching(sighting: Sighting | None, for_s: float) -> str:
    lease = None if sighting is None else sighting.lease
    whose = "a daemon whose lease cannot be read" if lease is None else f"the daemon on {lease.host} (pid {lease.pid})"
    return f"{whose} may be dead: its lease is watched for {for_s:.0f} s, and taken over if it is not renewed"


def _foreign(lease: Lease, shared_dir: Path, state_dir: Path) -> ConfigError:
    return ConfigError(
        f"shared_dir {shared_dir} is that of a daemon with another key, which ran last on {lease.host}: state_dir "
        f"{state_dir} is not the one that it had. Put state_dir where all login nodes see it, or start the daemon on "
        f"{lease.host}; to begin anew, without its pilots, deployments and clients, remove {shared_dir}/lease-*.json"
    )
