"""What ``hpcserve site check`` and ``hpcserve doctor`` both look at, and how both tell it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from hpcserve.cli.exits import FAILED, OK, USAGE

if TYPE_CHECKING:
    from hpcserve.cluster.site_findings import Finding
    from hpcserve.config import Site

SITE_FILE, SHARED_DIR = "site file", "shared_dir"


def tell(finding: Finding) -> int:
    """Prints a finding as soon as it is known; the exit code that it stands for."""
    typer.echo(f"{finding.outcome:<8} {finding.subject}: {finding.told}")
    if finding.outcome != "failed":
        return OK
    return USAGE if finding.subject == SITE_FILE else FAILED


def site_file(name: str | None, site: Site) -> Finding:
    """Whether it is whole."""
    from hpcserve import config
    from hpcserve.cluster.site_findings import Finding
    from hpcserve.errors import ConfigError

    try:
        config.load_site(name)
    except ConfigError as error:
        return Finding(SITE_FILE, "failed", str(error))
    return Finding(SITE_FILE, "ok", f"{site.name}, scheduler {site.scheduler.kind}")


def places(site: Site) -> Iterator[Finding]:
    """Whether a daemon would take the directories and the keys as they are."""
    from functools import partial

    from hpcserve import config
    from hpcserve.cluster.site_findings import Finding
    from hpcserve.daemon import health, preparation
    from hpcserve.errors import HpcserveError

    for subject, place, check in (
        ("HPCSERVE_HOME", config.home(), preparation.check_user),
        ("state_dir", site.state_dir, partial(preparation.check_state, site)),
        (SHARED_DIR, site.shared_dir, partial(preparation.check_shared, site)),
    ):
        try:
            there = check()
        except HpcserveError as error:
            yield Finding(subject, "failed", str(error))
            continue
        yield (
            health.shared_dir(site)
            if subject == SHARED_DIR
            else Finding(subject, "ok", str(place) if there else f"{place} will be made")
        )


async def queue(site: Site) -> Finding:
    """The daemon's own question to the scheduler, read as the daemon reads it."""
    import time

    from hpcserve.auth.private import private_directory
    from hpcserve.cluster.plugins import open_scheduler
    from hpcserve.cluster.site_findings import Finding
    from hpcserve.cluster.site_pilot import TAG
    from hpcserve.errors import HpcserveError

    began_s = time.monotonic()
    try:
        private_directory(site.state_dir)  # a scheduler may keep files in it
        scheduler = open_scheduler(site)
        try:
            await scheduler.find(TAG)
        finally:
            await scheduler.close()
    except HpcserveError as error:
        return Finding("queue", "failed", str(error))
    return Finding("queue", "ok", f"the scheduler told of your jobs within {time.monotonic() - began_s:.1f} s")
