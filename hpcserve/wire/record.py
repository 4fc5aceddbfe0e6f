"""The service record: where a daemon is and which key proves it. A JSON file in ``shared_dir``.

Clients, agents and replicas read it again whenever they reconnect, so a daemon may move (design §3a).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hpcserve.errors import ConfigError, ServiceUnavailable
from hpcserve.types import Epoch

RECORD_NAME = "service.json"
"""The name of its file."""
ALONE = "record"
"""Beside it, a directory with the same file and nothing else: what a container may see of the shared directory."""


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One running daemon.

    Addresses are ZeroMQ addresses (``tcp://127.0.0.1:40123``), best first; ``front_file`` and ``back_file`` are the
    paths of the same two sockets on ``host``, or empty. ``public_key`` is the service's CURVE key in Z85. ``format``
    is 1. ``staging``: where staged results are, for who sees the site's file systems.
    """

    format: int
    service: str
    site: str
    host: str
    pid: int
    epoch: Epoch
    public_key: str
    admission: tuple[str, ...]
    front: tuple[str, ...]
    back: tuple[str, ...]
    software: str
    front_file: str = ""
    back_file: str = ""
    staging: str = ""

    def front_address(self, here: str, may_open: Callable[[str], bool]) -> str:
        """Where a client on the host ``here`` connects to; ``may_open`` says whether it may open a file."""
        return self._by_file(self.front_file, here, may_open) or self.front[0]

    def back_address(self, here: str, may_open: Callable[[str], bool]) -> str:
        """The same for a replica."""
        return self._by_file(self.back_file, here, may_open) or self.back[0]

    def _by_file(self, path: str, here: str, may_open: Callable[[str], bool]) -> str:
        """The address of a Unix socket; empty where it cannot be reached, and TCP has to be used."""
        return f"ipc://{path}" if path and here == self.host and may_open(path) else ""


def encode_record(record: ServiceRecord) -> bytes:
    """The record as the file's content."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def decode_record(content: bytes, source: str) -> ServiceRecord:
    """The record in ``content``, which was read from ``source``.

    Raises:
        ServiceUnavailable: It is half of one, or damaged: a daemon that runs writes it again within ``lease_s``.
        ConfigError: It is not a service record of a known format.
    """
    try:
        record = msgspec.json.decode(content, type=ServiceRecord)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: not a service record: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_whole(source, str(error)) from error
    return checked(record, source)


def checked(record: ServiceRecord, source: str) -> ServiceRecord:
    """The record, if it says what its fields say here, and says where each socket is.

    Raises:
        ServiceUnavailable: An address is missing.
        ConfigError: It is of a later format.
    """
    if record.format != 1:
        raise ConfigError(f"{source}: service record format {record.format}; upgrade hpcserve to read it")
    for name, addresses in (("admission", record.admission), ("front", record.front), ("back", record.back)):
        if not addresses:
            raise _not_whole(source, f"{name!r} lists no address")
    return record


def _not_whole(source: str, why: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"{source}: not a whole service record ({why}); the daemon writes it again if it runs, else: hpcserve up"
    )
