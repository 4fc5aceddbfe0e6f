"""Two users with a daemon each on one login node: nothing of theirs collides, and none gets at the other's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve import config
from hpcserve.wire.record import ServiceRecord, decode_record
from tests.facility.box.files import PROJECT
from tests.facility.service import EXAMPLES, PATIENCE_S

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600), pytest.mark.usefixtures("able_machine")]

DEEP = "a-path-that-is-too-long-for-unix-sockets/" * 2
"""So the directories of the sockets are both below /tmp."""


class User:
    """A user id that nobody else has, with a home of its own."""

    def __init__(self, place: Path, uid: int) -> None:
        self.uid = uid
        self.home = place / str(uid) / DEEP
        self.home.mkdir(parents=True)
        for path in (place / str(uid), *(place / str(uid)).rglob("*")):
            os.chown(path, uid, uid)
            path.chmod(0o700)
        self.state = self.home / "sites" / "local" / "state"
        self.shared = self.home / "sites" / "local" / "shared"

    def run(self, *argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command as this user."""
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--"]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-ec", f'{_reachable()}\nexec "$@"', "sh", *become, *argv],
            env={"PATH": os.environ["PATH"], "HPCSERVE_HOME": str(self.home)},
            cwd="/",
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def hpcserve(self, *argv: str, given: str = "") -> str:
        """Runs ``hpcserve``, which has to succeed."""
        done = self.run(sys.executable, "-m", "hpcserve.cli.main", *argv, given=given)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def record(self) -> ServiceRecord:
        path = self.shared / "service.json"
        return decode_record(path.read_bytes(), str(path))

    def sockets(self) -> Path:
        """Where the daemon's are; this process is another user."""
        return Path(str(config.runtime_dir(self.state)).replace(f"hpcserve-{os.getuid()}-", f"hpcserve-{self.uid}-"))


def _reachable() -> str:
    """A script that lets everybody in to the interpreter and the project, in a mount namespace of its own."""
    script, hidden = "", set()
    for number, needed in enumerate(dict.fromkeys((sys.base_prefix, sys.prefix, str(PROJECT)))):
        closed = [each for each in reversed(Path(needed).parents) if not each.stat().st_mode & 0o001]
        if closed:
            hidden.add(closed[0])
            script += f"exec {number + 3}<{needed}\n"
    for each in hidden:
        script += f"mount -t tmpfs -o mode=755 tmpfs {each}\n"
    for line in script.splitlines():
        if line.startswith("exec "):
            descriptor, _, needed = line.removeprefix("exec ").partition("<")
            again = f"mount --no-canonicalize --bind /proc/self/fd/{descriptor} {needed}"
            script += f"mkdir -p {needed}; {again}; exec {descriptor}<&-\n"
    return script


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may pass through."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def users(place: Path) -> Iterator[tuple[User, User]]:
    """Both have a daemon."""
    ann, ben = User(place, 64001), User(place, 64002)
    for each in (ann, ben):
        each.hpcserve("up", "--detach")
    yield ann, ben
    for each in (ann, ben):
        each.hpcserve("down")


def test_their_daemons_run_side_by_side_and_are_closed_to_each_other(users: tuple[User, User], place: Path) -> None:
    ann, ben = users
    for number, each in enumerate(users):
        each.hpcserve("publish", str(EXAMPLES / "echo"))
        each.hpcserve("deploy", "echo")
        assert each.hpcserve("run", "echo.echo", "--input", "-", given=f"[{number}]") == f'{{"x": [{number}.0]}}\n'
    addresses = [{*each.record().front, *each.record().back, *each.record().admission} for each in users]
    assert addresses[0].isdisjoint(addresses[1])
    assert ann.sockets() != ben.sockets()
    assert {each.sockets().parent for each in users} == {Path("/tmp")}
    for one, other in ((ann, ben), (ben, ann)):
        places = [other.home / "client.key", other.state, other.shared, other.sockets()]
        assert all(each.exists() for each in places)
        assert one.run("find", *map(str, places), "(", "-readable", "-o", "-writable", ")").stdout == ""
        assert one.run("test", "-d", str(other.sockets())).returncode == 0, "this one it can see"
    copied = place / "record.json"
    shutil.copy(ann.shared / "service.json", copied)
    copied.chmod(0o644)
    ben.hpcserve("service", "add", "anns", str(copied))
    refused = ben.run(sys.executable, "-m", "hpcserve.cli.main", "--service", "anns", "status")
    assert refused.returncode == 4
    assert "does not know this key" in refused.stderr
