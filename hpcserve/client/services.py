"""Which daemon to call: the services that the user has named, and the pinned key of each.

``services.json`` in the user's hpcserve directory. Without it there is one service, that of site
``local`` (or the one that ``HPCSERVE_SITE`` names), found by the record in the site's shared directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from hpcserve import config
from hpcserve.auth.private import private_directory, replace
from hpcserve.client.ssh_address import is_ssh, refuse_other_schemes
from hpcserve.errors import AuthenticationError, ConfigError, NotFound, ServiceUnavailable
from hpcserve.wire.record import RECORD_NAME, ServiceRecord, decode_record


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One service: the path of its record, and its public key (Z85) as it was when the user added it.

    One that is reached by ssh has an ``address`` instead, ``ssh://login``.
    """

    record: Path | None = None
    public_key: str | None = None
    address: str | None = None

    @property
    def place(self) -> str:
        """Where it is found, for people: the address, or the record's path."""
        return self.address or str(self.record)

    def read(self) -> ServiceRecord:
        """The record as it is now.

        Raises:
            ServiceUnavailable: There is none: the daemon does not run.
            AuthenticationError: It names another key than the pinned one.
            ConfigError: The file is not a service record.
        """
        with self.reading() as read:
            return read()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[], ServiceRecord]]:
        """What reads the record anew at each call, and raises what :meth:`read` does. By ssh it logs in once."""
        if self.record is not None:
            yield partial(self._read, self.record)
            return
        from hpcserve.client import by_ssh

        with by_ssh.reading(self) as read:
            yield read

    def _read(self, path: Path) -> ServiceRecord:
        try:
            record = decode_record(path.read_bytes(), str(path))
        except FileNotFoundError as error:
            raise ServiceUnavailable(f"no daemon runs here ({path} does not exist); start one: hpcserve up") from error
        except PermissionError as error:
            raise ConfigError(f"cannot read the service record {path}: {error.strerror}") from error
        except OSError as error:  # a network file system that stumbles: it may be back soon
            raise ServiceUnavailable(f"cannot read the service record {path}: {error.strerror}") from error
        return pinned(record, self.public_key, self.place)


class Services(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file ``services.json``. ``default`` is None for the service of the default site."""

    services: dict[str, Service] = {}
    default: str | None = None

    def chosen(self, name: str | None) -> Service:
        """The service called ``name``, else the default one.

        Raises:
            NotFound: No service has this name.
            ConfigError: It is an address of another kind than ssh.
        """
        name = name or self.default
        if name is None:
            return of_site(None)
        if is_ssh(name):
            return Service(address=name)
        refuse_other_schemes(name)
        if name not in self.services:
            known = ", ".join(sorted(self.services)) or "none"
            raise NotFound(
                f"no service {name!r}; known: {known}; add it: hpcserve service add {name} RECORD, or ssh://LOGIN"
            )
        return self.services[name]


def pinned(record: ServiceRecord, public_key: str | None, place: str) -> ServiceRecord:
    """The record, if it has the key that the user has pinned, or none is.

    Raises:
        AuthenticationError: It has another one.
    """
    if public_key not in (None, record.public_key):
        what = place if is_ssh(place) else "RECORD"
        raise AuthenticationError(
            f"the service at {place} has another key than the one you pinned: if its owner made a new one, "
            f"take it with: hpcserve service add --replace NAME {what}"
        )
    return record


def of_site(site: str | None) -> Service:
    """The service of a site on this machine."""
    return Service(config.load_site(site).shared_dir / RECORD_NAME)


def find_service(name: str | Service | None = None) -> Service:
    """The service that the argument is, or names; else that of ``HPCSERVE_SERVICE``, ``services.json``, the site.

    An address of ``ssh://`` names a service, too.
    """
    if isinstance(name, Service):
        return name
    return load_services().chosen(config.service_named(name))


def _path() -> Path:
    return config.home() / "services.json"


def load_services() -> Services:
    """What the user has named so far.

    Raises:
        ConfigError: The file is broken.
    """
    try:
        return msgspec.json.decode(_path().read_bytes(), type=Services, dec_hook=_as_path)
    except FileNotFoundError:
        return Services()
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{_path()}: {error}; correct it, or remove it and add the services again") from error


def save_services(services: Services) -> None:
    """Writes ``services.json``, whole or not at all.

    Raises:
        StorageFull: The disk is full; what was there before is still there.
        ConfigError: It cannot be written, or others may enter its directory.
    """
    path = _path()
    private_directory(path.parent)
    replace(path, msgspec.json.format(msgspec.json.encode(services, enc_hook=str), indent=2) + b"\n")


def _as_path(kind: type, value: object) -> object:
    """A field that is a Path; msgspec has no type for it, and ``str`` is its way out."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected a path, got {value!r}")
