"""What a site's check asks Slurm by its commands, and with what environment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from hpcserve.cluster.finding import Finding
from hpcserve.cluster.plugins import open_scheduler
from hpcserve.cluster.seam import JobId
from hpcserve.cluster.site_slurm import COMMANDS, questions
from hpcserve.config import Scheduler, read_site
from hpcserve.errors import SchedulerError


def test_a_site_is_checked_with_what_its_daemon_will_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A token that only one of them had would let the check pass and the daemon fail, or the other way round."""
    site = msgspec.structs.replace(read_site("slurm"), scheduler=Scheduler(kind="slurm", transport="commands"))
    for name in (*COMMANDS, "sinfo"):
        (tmp_path / name).write_text('#!/bin/sh\necho "<$SLURM_JWT><$SOMETHING><$SLURM_CLUSTERS>" >&2\nexit 1\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in {"SLURM_JWT": "token", "SOMETHING": "x", "SLURM_CLUSTERS": "other"}.items():
        monkeypatch.setenv(name, value)

    async def ask() -> list[Finding]:
        return [finding async for finding in questions(site, "", "ada")]

    (up,) = [finding for finding in asyncio.run(ask()) if finding.subject == "slurmctld"]
    assert "<token><><>" in up.told
    with pytest.raises(SchedulerError, match="<token><><>"):
        asyncio.run(open_scheduler(site).cancel(JobId("1")))
