"""What ``python -m hpcserve.testing.globus`` has ready in its directory, with the same ids each time it is started.

Somebody who is signed in and in a group, a service with its two clients, two collections, and a site file for a daemon.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcserve.testing.globus.collections import Kind
from hpcserve.testing.globus.loopback import LoopbackGlobus
from hpcserve.testing.globus.movers import Mover
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Dependent
from hpcserve.testing.globus.transfer_journal import Journal

IDS, SECRET, SITE_FILE, LOCK, TASKS = "ids.json", "client_secret", "site.toml", "lock", "tasks.json"
NAMES = ("person", "group", "service", "native", "facility", "laptop")
SITE = """\
name = "loopback"
base = "local"
auth = "globus"

[globus]
client_id = "{service}"
client_secret_file = "{secret_file}"
native_client_id = "{native}"
groups = ["{group}"]

[access]
call = {{ allow = ["*"] }}
publish = {{ allow = ["*"] }}
deploy = {{ allow = ["*"] }}
administer = {{ allow = ["user:{person}"] }}

# Staged results have to lie on a collection, or they cannot travel.
[staging]
directory = "{facility.root}"

[[staging.collections]]
id = "{facility.id}"
prefix = "{facility.root}"
kind = "mapped"
https = true

# Yours, as a laptop's would be: {laptop.id}
# Its files lie in {laptop.root}
"""


class InUse(Exception):
    """Another stand-in has the directory. The message says so."""


@contextmanager
def furnished(directory: Path, mover: Mover | None = None) -> Iterator[LoopbackGlobus]:
    """A stand-in that runs, and all that lies ready.

    Raises:
        InUse: One runs in this directory already.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"{directory}: another stand-in runs there; end it, or give this one its own") from error
        ids, port = _ids(directory / IDS)
        with LoopbackGlobus(directory, mover, port=port) as globus:
            _furnish(globus, ids)
            globus.transfer.queue.take_up(Journal(directory / TASKS), globus.collections.get, globus.world.people)
            _write(directory / IDS, json.dumps({**ids, "port": globus.port}, indent=2) + "\n")
            yield globus


def _ids(path: Path) -> tuple[dict[str, str], int]:
    """Those of the last time, and its port; or new ones."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: known.get(name) or str(uuid.uuid4()) for name in NAMES}, known.get("port", 0)


def _furnish(globus: LoopbackGlobus, ids: dict[str, str]) -> None:
    world = globus.world
    person = world.add_person(f"{getpass.getuser()}@laptop.example", identity=ids["person"], second_factor=True)
    world.sign_in(person)
    group = world.add_group("users", [person], group=ids["group"])
    secret_file = globus.directory / SECRET
    if not secret_file.exists():
        _write(secret_file, secrets.token_urlsafe(32) + "\n")
    secret = secret_file.read_text(encoding="utf-8").strip()
    service = world.add_client("hpcserve", secret=secret, client=ids["service"])
    native = world.add_client("hpcserve login", client=ids["native"])
    open_ = globus.collections.open
    facility = open_("facility", person.id, collection=ids["facility"])
    facility.root.chmod(0o700)
    further = (TRANSFER_ALL, facility.https_scope)
    needs = (Dependent(GROUPS_VIEW), *(Dependent(each, optional=True) for each in further))
    world.add_scope(service.id, dependents=needs)
    site = SITE.format(
        service=service.id,
        secret_file=secret_file,
        native=native.id,
        group=group.id,
        person=person.username,
        facility=facility,
        laptop=open_("laptop", person.id, Kind.PERSONAL, collection=ids["laptop"]),
    )
    _write(globus.directory / SITE_FILE, site)


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
