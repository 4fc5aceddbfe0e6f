"""``python -m hpcserve.cluster.probe``: looks around on a compute node for ``hpcserve site check``.

It runs in a job of one minute, tries what an agent will need, and writes what it saw into a file of the shared
directory. That this module starts at all shows that the node's Python finds hpcserve.
"""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

import msgspec

from hpcserve import __version__

CONNECT_TIMEOUT_S = 5.0
_GREETING_BYTES = 10


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen on the node.

    Attributes:
        host: The node.
        version: Its hpcserve.
        python: Its Python.
        unreachable: Each address that cannot be reached, with the reason.
    """

    host: str
    version: str
    python: str
    unreachable: dict[str, str]


def reach(address: str) -> str:
    """Why the ZeroMQ socket at ``HOST:PORT`` cannot be reached; empty if it can.

    A ZeroMQ socket speaks first, so a firewall that accepts a connection and swallows it does not pass.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S) as connection:
            greeting = connection.recv(_GREETING_BYTES)
    except OSError as error:
        return str(error)
    return "" if greeting[:1] == b"\xff" else f"something else than ZeroMQ answers: {greeting!r}"


def main() -> int:
    """Looks, and writes the report; whole, or not at all."""
    parser = argparse.ArgumentParser(prog="python -m hpcserve.cluster.probe", description=__doc__)
    parser.add_argument("--report", type=Path, required=True, help="the file to write")
    parser.add_argument("--address", action="append", default=[], help="HOST:PORT of a ZeroMQ socket to reach")
    options, _of_agents = parser.parse_known_args()
    report = Report(
        host=socket.gethostname(),
        version=__version__,
        python=sys.executable,
        unreachable={address: why for address in options.address if (why := reach(address))},
    )
    part = options.report.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(report))
    part.replace(options.report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
