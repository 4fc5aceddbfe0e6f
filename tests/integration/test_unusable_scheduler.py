"""A scheduler that cannot be used as the site file says is told of when the daemon starts, to whoever starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.daemon_tree import Daemon


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"kind": "slrm"}, "scheduler.kind: nothing is called 'slrm'; known: local, pbs, slurm"),
        ({"kind": "slurm", "transport": "pyslurm"}, 'scheduler.transport: "pyslurm" cannot be used here: '),
    ],
)
def test_the_daemon_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "nowhere" / "slurm.conf"))
    daemon = Daemon(tmp_path, scheduler=scheduler)
    try:
        error = daemon.start()["error"]
        assert error["code"] == "config"
        assert message in error["message"]
        assert daemon.process is not None
        assert daemon.process.wait(30) == 1
        assert daemon.processes() == []
    finally:
        daemon.end()
