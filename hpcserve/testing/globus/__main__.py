"""``python -m hpcserve.testing.globus DIRECTORY``: a stand-in to try things with, until Ctrl-C.

It prints ``export`` lines for the programs that are to use it. In the directory it leaves ``site.toml``, what a site
file has to say, and the client secret that this names.
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

from hpcserve.testing.globus.loopback import LoopbackGlobus
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Dependent

SITE = """\
auth = "globus"

[globus]
client_id = "{service}"
client_secret_file = "{secret_file}"
native_client_id = "{native}"
groups = ["{group}"]
"""


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m hpcserve.testing.globus", description=__doc__)
    parser.add_argument("directory", type=Path, help="a directory of yours alone, made if it is not there")
    directory = parser.parse_args(arguments).directory.resolve()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with LoopbackGlobus(directory) as globus:
        _furnish(globus)
        for name, value in globus.environment.items():
            sys.stdout.write(f"export {name}={value}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            stopped.wait()
    return 0


def _furnish(globus: LoopbackGlobus) -> None:
    """Somebody who is signed in and in a group, and a service with its two clients."""
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
    site = SITE.format(service=service.id, secret_file=secret_file, native=native.id, group=group.id)
    _write(globus.directory / "site.toml", site)


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
