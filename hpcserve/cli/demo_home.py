"""Where the demo lives: a temporary home of its own, and what still runs of it when it is over."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcserve import config
from hpcserve.auth.private import private_directory
from hpcserve.cluster.plugins import open_scheduler
from hpcserve.daemon.controller.job import service_tag

LAST_MOMENT_S = 3.0
JOBS_END_S = 20.0
"""A scheduler takes its time to clean up after a job."""

FILE = "demo.toml"

HERE = """\
# Site "local", for the time of a demo.
name = "demo"
state_dir = "{home}/state"
shared_dir = "{home}/shared"
[scheduler]
kind = "local"
poll_s = 0.2
[pilots]
slots = 5
max_pilots = 1
orphan_s = 5.0
stop_grace_s = 2.0
"""

ELSEWHERE = """\
# Another site, for the time of a demo.
base = {base}
name = "demo"
state_dir = "{home}/state"
shared_dir = "{home}/shared"
[daemon]
placement = "login"
"""


@contextmanager
def moved_in(site: str | None) -> Iterator[Path]:
    """A temporary directory that is this process's hpcserve home, and so that of all that it starts.

    With a site it lies where the site's nodes see it: in the site's shared directory.

    Raises:
        ConfigError: There is no such site, or its file is wrong.
    """
    place = None
    if site is not None:
        place = config.load_site(site).shared_dir
        private_directory(place, secret=False)
    with tempfile.TemporaryDirectory(prefix="hpcserve-demo-", dir=place, ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        _furnish(home, site)
        yield home


def _furnish(home: Path, site: str | None) -> None:
    if site is None:
        text = HERE.format(home=home)
    else:
        # The user's own site files are found in the new home as in the old one.
        (home / "sites").symlink_to(config.home() / "sites")
        base = str(config.expanded(site)) if site.endswith(".toml") or "/" in site else site
        text = ELSEWHERE.format(home=home, base=json.dumps(base))
    (home / FILE).write_text(text)
    os.environ["HPCSERVE_HOME"] = str(home)
    os.environ["HPCSERVE_SITE"] = str(home / FILE)
    # What tells all processes of the demo from others: a replica inherits it, unlike hpcserve's own variables.
    (home / "tmp").mkdir()
    os.environ["TMPDIR"] = str(home / "tmp")
    # A replica has a core at best: threads of its linear algebra would only wait for each other.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ.pop("HPCSERVE_SERVICE", None)


def wait_gone(home: Path) -> None:
    """Gives the processes of the demo a last moment to end."""
    until = time.monotonic() + LAST_MOMENT_S
    while processes_of(home) and time.monotonic() < until:
        time.sleep(0.02)


def processes_of(home: Path) -> list[int]:
    """The processes of the demo other than this one, where the system tells."""
    mark = f"TMPDIR={home / 'tmp'}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        pid = int(place.parent.name)
        try:
            if pid != os.getpid() and mark in place.read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue  # it has ended meanwhile, or is somebody else's
    return found


def jobs_of(home: Path) -> int:
    """How many jobs of the demo the batch scheduler still has; those that are about to end get a moment for it.

    Raises:
        SchedulerError: The scheduler does not answer.
    """
    site = config.load_site(str(home / FILE))
    # Its jobs are processes, and counted as such.
    return 0 if site.scheduler.kind == "local" else asyncio.run(_count_jobs(site))


async def _count_jobs(site: config.Site) -> int:
    scheduler = open_scheduler(site)
    until = time.monotonic() + JOBS_END_S
    try:
        while True:
            states = await scheduler.poll(list(await scheduler.find(service_tag(site.shared_dir))))
            living = sum(state.phase != "ended" for state in states.values())
            if not living or time.monotonic() > until:
                return living
            await asyncio.sleep(site.scheduler.poll_s)
    finally:
        await scheduler.close()
