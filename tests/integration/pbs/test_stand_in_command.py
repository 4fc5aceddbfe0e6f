"""``python -m tests.integration.pbs -- COMMAND``: a stand-in for PBS to try things at, which leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HPCSERVE = f"{sys.executable} -m hpcserve.cli.main"
BAD_DAY = f"{sys.executable} -m tests.integration.pbs.bad_day"


def of(home: Path) -> list[str]:
    """The processes that have this home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if f"HPCSERVE_HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_a_command_finds_pbs_and_a_site_and_leaves_neither_a_daemon_nor_a_job(root: Path) -> None:
    script = f"""
    set -e
    echo 'sleep 600' | qsub
    qstat
    {HPCSERVE} site check
    {BAD_DAY} garbage qstat
    qstat
    {BAD_DAY} mend
    {BAD_DAY} requeue "$(qselect)"
    {HPCSERVE} up --detach
    echo "home is $HPCSERVE_HOME"
    exit 7
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.pbs", "--nodes", "2", "--", "sh", "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 7, done
    found = re.search(r"^home is (.*)$", done.stdout, re.MULTILINE)
    assert found is not None, done
    assert re.search(r"^1\.\S+ +STDIN +\S+ +\S+ R workq$", done.stdout, re.MULTILINE), done
    assert "ok       PBS: " in done.stdout
    assert "ok       interface: 127.0.0.1: all nodes of the scheduler are this host" in done.stdout
    assert re.search(r"^ok       network: \S+ reaches this host$", done.stdout, re.MULTILINE), (
        "the job of one minute ran"
    )
    assert "502 Bad Gateway" in done.stdout, "a command misbehaves when it is told to"
    assert "serves site stand-in on" in done.stdout
    home = Path(found[1])
    assert not home.parent.exists()
    assert of(home) == []


def test_it_needs_no_package_of_the_tests(root: Path) -> None:
    looked = "import sys, tests.integration.pbs.__main__; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", looked], cwd=root, check=True, timeout=60)
