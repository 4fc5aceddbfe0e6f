"""``python -m hpcserve.cluster.probe``: looks around on a compute node, for ``hpcserve site check`` and ``doctor``.

It runs in a job of one minute, or beside an agent in its job, tries what an agent needs, and writes what it saw into a
file of the shared directory. That this module starts at all shows that the node's Python finds hpcserve.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import zmq

from hpcserve import __version__
from hpcserve.cluster import interfaces
from hpcserve.cluster.reach import Obstacle, reach
from hpcserve.cluster.site_host import Listeners
from hpcserve.errors import ConfigError, HpcserveError
from hpcserve.wire.record import decode_record

_AT_ONCE = 32


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen on the node.

    Attributes:
        host: The node.
        version: Its hpcserve.
        python: Its Python.
        obstacles: Each address that cannot be reached, with what is in the way.
        epoch: That of the service record as the node sees it; None if it was not to look, or cannot read it.
        record_error: Why it cannot.
        listens: The address at which a daemon could listen there; empty if it was not to try, or cannot.
        listen_error: Why it cannot.
        path: Its PATH.
        missing: Which commands, of those that it was to look for, are not there.
    """

    host: str
    version: str
    python: str
    obstacles: dict[str, Obstacle] = {}
    epoch: int | None = None
    record_error: str = ""
    listens: str = ""
    listen_error: str = ""
    path: str = ""
    missing: tuple[str, ...] = ()


def _obstacles(addresses: list[str]) -> dict[str, Obstacle]:
    """All at once, so that it takes no longer than one of them."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = zip(addresses, pool.map(reach, addresses), strict=True)
        return {address: obstacle for address, obstacle in found if obstacle is not None}


def _record(path: Path | None) -> tuple[int | None, str]:
    if path is None:
        return None, ""
    try:
        return decode_record(path.read_bytes(), str(path)).epoch, ""
    except (OSError, HpcserveError) as error:
        return None, str(error)


def _listens(host: str) -> tuple[str, str]:
    """The address that ``network.host`` of a site is here, if something can listen there."""
    if not host:
        return "", ""
    listeners = Listeners()
    try:
        address = interfaces.resolve(host)
        listeners.open(address)
    except ConfigError as error:
        return "", error.message
    except zmq.ZMQError as error:
        return "", f"network.host: cannot listen on {host!r}: {error.strerror}; {interfaces.listed()}"
    finally:
        listeners.close()
    return address, f"network.host: interface {host} is down" if interfaces.is_down(host) else ""


def main() -> int:
    """Looks, and writes the report; whole, or not at all."""
    parser = argparse.ArgumentParser(prog="python -m hpcserve.cluster.probe", description=__doc__)
    parser.add_argument("--report", type=Path, required=True, help="the file to write")
    parser.add_argument("--address", action="append", default=[], help="HOST:PORT of a ZeroMQ socket to reach")
    parser.add_argument("--record", type=Path, help="the service record to read")
    parser.add_argument("--listen", default="", metavar="HOST", help="where a daemon is to be able to listen here")
    parser.add_argument("--command", action="append", default=[], help="a command that is to be in PATH here")
    options, _of_agents = parser.parse_known_args()
    epoch, record_error = _record(options.record)
    listens, listen_error = _listens(options.listen)
    report = Report(
        host=socket.gethostname(),
        version=__version__,
        python=sys.executable,
        obstacles=_obstacles(options.address),
        epoch=epoch,
        record_error=record_error,
        listens=listens,
        listen_error=listen_error,
        path=os.environ.get("PATH", "not set"),
        missing=tuple(name for name in options.command if shutil.which(name) is None),
    )
    part = options.report.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(report))
    part.replace(options.report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
