"""``python -m hpcserve.testing.globus DIRECTORY``: a stand-in to try things with, until Ctrl-C.

It prints ``export`` lines for the programs that are to use it. In the directory it leaves ``site.toml``, what a site
file has to say, the client secret that this names, and the files of two collections: a facility's and a laptop's.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import signal
import sys
import threading
from pathlib import Path

from hpcserve.testing.globus.collections import Kind
from hpcserve.testing.globus.gridftp import GridftpMover
from hpcserve.testing.globus.loopback import LoopbackGlobus
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Dependent

SITE = """\
auth = "globus"

[globus]
client_id = "{service}"
client_secret_file = "{secret_file}"
native_client_id = "{native}"
groups = ["{group}"]

[[staging.collections]]
id = "{facility.id}"
prefix = "{facility.root}"
kind = "mapped"
https = true

# Yours, as a laptop's would be: {laptop.id}
# Its files lie in {laptop.root}
"""


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m hpcserve.testing.globus", description=__doc__)
    parser.add_argument("directory", type=Path, help="a directory of yours alone, made if it is not there")
    parser.add_argument("--gridftp", action="store_true", help="move bytes by GridFTP servers, and not by a plain copy")
    chosen = parser.parse_args(arguments)
    directory = chosen.directory.resolve()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with LoopbackGlobus(directory, GridftpMover() if chosen.gridftp else None) as globus:
        _furnish(globus)
        for name, value in globus.environment.items():
            sys.stdout.write(f"export {name}={value}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            stopped.wait()
    return 0


def _furnish(globus: LoopbackGlobus) -> None:
    """Somebody who is signed in and in a group, a service with its two clients, and two collections."""
    world = globus.world
    person = world.add_person(f"{getpass.getuser()}@laptop.example", second_factor=True)
    world.sign_in(person)
    group = world.add_group("users", [person])
    secret = secrets.token_urlsafe(32)
    service = world.add_client("hpcserve", secret=secret)
    native = world.add_client("hpcserve login")
    world.add_scope(service.id, dependents=(Dependent(GROUPS_VIEW), Dependent(TRANSFER_ALL, optional=True)))
    secret_file = globus.directory / "client_secret"
    _write(secret_file, secret + "\n")
    site = SITE.format(
        service=service.id,
        secret_file=secret_file,
        native=native.id,
        group=group.id,
        facility=globus.add_collection("facility", person),
        laptop=globus.add_collection("laptop", person, Kind.PERSONAL),
    )
    _write(globus.directory / "site.toml", site)


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
