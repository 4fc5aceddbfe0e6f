"""What ``hpcserve site check`` and ``hpcserve doctor`` both look at, and how both tell it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from hpcserve.cli.exits import FAILED, OK, USAGE

if TYPE_CHECKING:
    from hpcserve.cluster.finding import Finding
    from hpcserve.config import Site

SITE_FILE, STATE_DIR, SHARED_DIR = "site file", "state_dir", "shared_dir"


def tell(finding: Finding) -> int:
    """Prints a finding as soon as it is known; the exit code that it stands for."""
    typer.echo(f"{finding.outcome:<8} {finding.subject}: {' '.join(finding.told.split())}")  # a command may say lines
    if finding.outcome != "failed":
        return OK
    return USAGE if finding.subject == SITE_FILE else FAILED


@contextmanager
def as_before(site: Site) -> Iterator[None]:
    """The directories of the site that are made meanwhile go again at the end, unless something is kept in them."""
    made = [
        each for place in (site.state_dir, site.shared_dir) for each in (place, *place.parents) if not each.exists()
    ]
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):  # it has something in it, or was not made
                each.rmdir()


def site_file(name: str | None, site: Site) -> Finding:
    """Whether it is whole."""
    from hpcserve import config
    from hpcserve.cluster.finding import Finding
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
    from hpcserve.cluster import site_host
    from hpcserve.cluster.finding import Finding
    from hpcserve.daemon import health, preparation
    from hpcserve.errors import HpcserveError

    home = config.home()
    for subject, check, told in (
        ("HPCSERVE_HOME", preparation.check_user, None),
        (STATE_DIR, partial(preparation.check_state, site), partial(site_host.state_dir, site)),
        (SHARED_DIR, partial(preparation.check_shared, site), partial(health.shared_dir, site)),
    ):
        try:
            there = check()
        except HpcserveError as error:
            yield Finding(subject, "failed", str(error))
            continue
        yield told() if told else Finding(subject, "ok", str(home) if there else f"{home} will be made")


def staging(site: Site) -> Iterator[Finding]:
    """Whether staged results can travel, where the site has collections: nothing of that is told before the first."""
    from pathlib import Path

    from hpcserve.cluster.finding import Finding
    from hpcserve.core.sitepaths import is_below

    collections = site.staging.collections
    for each in collections:
        if not Path(each.prefix).is_dir():
            yield Finding(
                "staging", "warning", f"staging.collections: {each.id}: there is no directory {each.prefix} here"
            )
    if collections and not any(is_below(site.staging_dir, each.prefix) for each in collections):
        yield Finding(
            "staging",
            "warning",
            f"staging.directory: {site.staging_dir} is on none of the site's staging.collections, so that no result "
            "can be brought to a collection, nor fetched by HTTPS; set it to a directory below one's prefix",
        )


def globus(site: Site) -> Iterator[Finding]:
    """Whether Globus Auth takes the service's secret; a daemon learns that at the first login."""
    from hpcserve.auth.globus import Globus, read_secret
    from hpcserve.cluster.finding import Finding
    from hpcserve.daemon.registration import rules_of, secret_file
    from hpcserve.errors import ConfigError, HpcserveError

    if site.auth != "globus":
        return
    try:
        Globus(rules_of(site), read_secret(secret_file(site))).try_secret()
    except ConfigError as error:
        yield Finding("globus", "failed", f"{error} ({secret_file(site)})")
    except HpcserveError as error:
        yield Finding("globus", "warning", str(error))
    else:
        yield Finding("globus", "ok", f"Globus Auth takes the secret of client {site.globus.client_id}")


async def queue(site: Site) -> Finding:
    """The daemon's own question to the scheduler, read as the daemon reads it."""
    import time

    from hpcserve.auth.private import private_directory
    from hpcserve.cluster.finding import Finding
    from hpcserve.cluster.plugins import open_scheduler
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
