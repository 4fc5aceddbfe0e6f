"""What must be there before the daemon starts: its directories, its key, and in personal mode its user's.

``hpcserve site check`` looks at the same, and makes nothing.

The directory of its sockets belongs to whoever holds the lease: that one makes it, and removes it at its end. What
a daemon that was killed has left there serves the next one of the same state directory.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpcserve.auth.authorized import AuthorizedKeys, authorize
from hpcserve.auth.keys import CLIENT_KEY, KeyPair, load, load_or_create
from hpcserve.auth.private import check_directory, private_directory
from hpcserve.config import Site, home, runtime_dir
from hpcserve.daemon.launch import AUTHORIZED_KEYS, ENROLMENTS, SERVICE_KEY
from hpcserve.daemon.logs import log_path
from hpcserve.daemon.processes import end_left
from hpcserve.daemon.registration import check_registration
from hpcserve.registry.vault import store


@dataclass(frozen=True, slots=True)
class Place:
    """A directory; ``secret``: others must not even enter it."""

    path: Path
    secret: bool = True


def user_places() -> tuple[Place, ...]:
    """The directories of the user."""
    return (Place(home()),)


def state_places(site: Site) -> tuple[Place, ...]:
    """The directories of the daemon's own."""
    return (Place(site.state_dir), Place((site.state_dir / SERVICE_KEY).parent))


def shared_places(site: Site) -> tuple[Place, ...]:
    """The directories that the nodes see: who may write there may run code as this user."""
    shared = site.shared_dir
    return (
        Place(shared, secret=False),
        Place(log_path(shared, "supervisor").parent, secret=False),
        Place(store(shared), secret=False),
        Place(shared / ENROLMENTS),
    )


def check_user() -> bool:
    """Looks whether :func:`prepare` would refuse anything of the user's, and makes nothing.

    Returns:
        Whether the first directory is there.

    Raises:
        ConfigError: It would.
    """
    there = _check(user_places())
    _check_key(home() / CLIENT_KEY)
    return there


def check_state(site: Site) -> bool:
    """The same of the daemon's own directory, with its keys."""
    there = _check(state_places(site))
    _check_key(site.state_dir / SERVICE_KEY)
    AuthorizedKeys(site.state_dir / AUTHORIZED_KEYS)
    check_registration(site)
    return there


def check_shared(site: Site) -> bool:
    """The same of the shared directory, with the servables that are kept in it."""
    there = _check(shared_places(site))
    _check_servables(site)
    return there


def _check(places: Iterable[Place]) -> bool:
    first, *_ = [check_directory(place.path, secret=place.secret) for place in places]
    return first


def _check_key(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        load(path)


def _check_servables(site: Site) -> None:
    # Not made anew: another daemon of this site may discard one meanwhile.
    with contextlib.suppress(FileNotFoundError):
        for each in store(site.shared_dir).iterdir():
            check_directory(each, secret=False)


def prepare(site: Site) -> KeyPair:
    """Makes what is missing, and refuses what others could have tampered with.

    Returns:
        The service's key.

    Raises:
        ConfigError: A directory or a key is open to others, not ours or broken.
        StorageFull: The disk is full.
    """
    for place in (*state_places(site), *shared_places(site)):
        private_directory(place.path, secret=place.secret)
    _check_servables(site)
    check_registration(site)
    keys = load_or_create(site.state_dir / SERVICE_KEY)
    client = load_or_create(home() / CLIENT_KEY)
    authorize(site.state_dir / AUTHORIZED_KEYS, user_name(), client.public)
    return keys


def make_runtime_dir(site: Site) -> Path:
    """The directory of the daemon's sockets, without those of the one before, of which nothing runs any more.

    Only the holder of the lease may call this.

    A process of ours that found an old one there might wait for a broker that stands still.

    Raises:
        ConfigError: It is open to others or not ours.
        StorageFull: The disk is full.
    """
    place = private_directory(runtime_dir(site.state_dir))
    end_left(place)
    for entry in place.iterdir():
        if entry.is_socket():
            entry.unlink(missing_ok=True)
    return place


def user_name() -> str:
    """The name of the user whose process this is."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
