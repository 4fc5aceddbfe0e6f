"""Whether this machine can hold a box, and what is in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.facility.box.keeper import NEW_NAMESPACES

PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "fsfreeze": "util-linux",
    "mkfs.ext4": "e2fsprogs",
}
"""Which Debian package has which program."""


def lacks() -> str:
    """Why there can be no box here, in words; "" if there can."""
    if sys.platform != "linux":
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it needs root, for the namespaces of its nodes"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [(program, package) for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None]
    if missing:
        programs = ", ".join(program for program, _ in missing)
        packages = " ".join(dict.fromkeys(package for _, package in missing))
        return f"{programs} not found; on Debian: apt-get install {packages}"
    tried = subprocess.run([*NEW_NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def must_hold_one() -> bool:
    """Whether a missing box is an error here: in CI, and where ``make test`` installs what it needs."""
    return bool(os.environ.get("CI")) or (os.geteuid() == 0 and Path("/etc/debian_version").exists())
