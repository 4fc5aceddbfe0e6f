"""The tokens that a user's logins have brought, in a file of mode 0600 for each service. Knows no Globus SDK.

A file is found by the service's public key, which the connection proves: a token that one service was logged in for is
sent to no other. What a program logs in for by its secret has files of its own. ``expires_at`` counts by this machine's
clock, from the lifetime that Globus has told: the two clocks need not agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hpcserve import config
from hpcserve.auth.private import private_directory, read_private, replace, storage_error
from hpcserve.errors import ConfigError

DIRECTORY = "logins"
LENT = "lent"
"""The file that is there when a service may keep a login of the user's until a result has arrived."""
SOON_S = 60.0
"""A token that ends sooner than that is not begun with."""


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One login.

    Attributes:
        service: The public key (Z85) of the service that it is for.
        client_id: The client by which it was made.
        scope: That of the token.
        resource_server: The service's client at Globus.
        access_token: What the service gets.
        expires_at: Until when it counts, in seconds since 1970 by this machine's clock.
        refresh_token: By which a new one is had; None: the login ends with its token.
        by_secret: Whether it is a program's.
        others: What else was issued with it, to be revoked with it.
    """

    service: str
    client_id: str
    scope: str
    resource_server: str
    access_token: str
    expires_at: float
    refresh_token: str | None = None
    by_secret: bool = False
    others: tuple[str, ...] = ()

    @property
    def left_s(self) -> float:
        """How long the token still counts."""
        return self.expires_at - time.time()

    @property
    def renews(self) -> bool:
        """Whether it goes on without anybody's doing."""
        return self.by_secret or self.refresh_token is not None


def directory() -> Path:
    """Where the logins are."""
    return config.home() / DIRECTORY


def path_of(service: str, program: str = "") -> Path:
    """The file of the login for a service.

    Args:
        service: Its public key (Z85).
        program: The client's id of a program that logs in by its secret; empty: the user's own.
    """
    name = hashlib.sha256(service.encode()).hexdigest()[:32]
    return directory() / (f"{name}.{program}.json" if program else f"{name}.json")


def load(service: str, program: str = "") -> Kept | None:
    """The login for a service, if there is one.

    Raises:
        ConfigError: Others may read the file, or it is broken.
    """
    return read(path_of(service, program), service)


def read(path: Path, service: str | None = None, *, exposed: bool = False) -> Kept | None:
    """The login in a file, which must be that for ``service`` if that is said.

    With ``exposed`` others may read it, too.

    Raises:
        ConfigError: As :func:`load`.
    """
    try:
        content = read_private(path, secret=not exposed)
    except FileNotFoundError:
        return None
    try:
        kept = msgspec.json.decode(content, type=Kept)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _broken(path, str(error)) from error
    if service not in (None, kept.service):
        raise _broken(path, "it is that of another service")
    return kept


def _broken(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: {why}; remove it, and log in again: hpcserve logout, hpcserve login")


def every() -> Iterator[Kept]:
    """All logins.

    Raises:
        ConfigError: As :func:`load`.
    """
    yield from filter(None, map(read, paths()))


def paths() -> list[Path]:
    """The files of all logins, whole or not."""
    return sorted(directory().glob("*.json"))


def save(kept: Kept) -> None:
    """Keeps a login in place of the one before.

    Raises:
        StorageFull: The disk is full; the one before is still there.
        ConfigError: It cannot be written.
    """
    path = path_of(kept.service, kept.client_id if kept.by_secret else "")
    private_directory(path.parent.parent)
    private_directory(path.parent)
    replace(path, msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")


def save_renewed(kept: Kept, before: Kept) -> bool:
    """As :func:`save`, if meanwhile nobody has logged out or in again; whether that is so."""
    found = load(before.service, before.client_id if before.by_secret else "")
    if found is None or (found.client_id, found.refresh_token) != (before.client_id, before.refresh_token):
        return False
    save(kept)
    return True


def note_lent() -> None:
    """Some service may keep a login from now on: whoever logs out is told.

    Raises:
        StorageFull: The disk is full.
        ConfigError: It cannot be written.
    """
    private_directory(config.home())
    private_directory(directory())
    replace(directory() / LENT, b"")


def forget_lent() -> bool:
    """Whether some service may have kept a login since this was asked last.

    Raises:
        ConfigError: The file cannot be removed.
    """
    lent = (directory() / LENT).exists()
    remove(directory() / LENT)
    return lent


def remove(path: Path) -> None:
    """Forgets a login.

    Raises:
        ConfigError: Its file cannot be removed.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    except OSError as error:
        raise storage_error(error, f"cannot remove {path}") from error
