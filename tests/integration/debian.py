"""Images of another Debian release, unpacked from its own packages: within seconds, and nothing is installed here."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hpcserve.cluster.building import apt_mirror
from tests.integration import images

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_LEFT_OUT = ("doc", "man", "locale", "info")
_RECIPE = 1  # counts up when what is made here changes


def image(release: str, packages: Sequence[str], cache: Path) -> Path:
    """An image with some packages of a release and all that they depend on; kept in ``cache``."""
    made = cache / f"{release}-{_RECIPE}.sif"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            work = cache / f"{release}.{os.getpid()}"
            try:
                _unpack(work / "tree", _fetch(work, release, packages))
                images.build(work / "new.sif", work / "tree").rename(made)
            finally:
                subprocess.run(["rm", "-rf", str(work)], check=True)
    return made


def _fetch(work: Path, release: str, packages: Sequence[str]) -> list[Path]:
    """Their archives, by an apt-get of which this machine's own never hears."""
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {apt_mirror()} {release} main\n")
    places = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-qq", *(word for name, value in places.items() for word in ("-o", f"{name}={value}"))]
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--no-install-recommends", "--download-only", *packages])
    return sorted((work / "cache/archives").glob("*.deb"))


def _unpack(tree: Path, archives: Sequence[Path]) -> None:
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", *images.DIRECTORIES):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    out = [f"--exclude=./usr/share/{each}" for each in _LEFT_OUT]
    for archive in archives:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpacking:
            subprocess.run(
                ["tar", "-x", "-C", str(tree), "--keep-directory-symlink", *out], stdin=unpacking.stdout, check=True
            )
        assert unpacking.returncode == 0, archive
    if not (tree / "bin/sh").exists():
        (tree / "bin/sh").symlink_to("bash")
    images.users(tree)


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
