"""An image is copied to nodes by the program that does it there, and by MPI to several: real files, locks and mounts.

Nodes are processes of this machine, each with mounts of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.pilot.nodecopies import PIECE_BYTES
from hpcserve.pilot.stageplan import STAGE_MODULE, Plan, Told, decode_told, encode_plan
from tests.integration.daemon_tree import PATIENCE_S, until

SIZE_BYTES = 2 * PIECE_BYTES + 12_345
LONG_AGO_S = 1_000_000_000
MPIEXEC = Path(sys.executable).with_name("mpiexec")


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(6).randbytes(SIZE_BYTES)


@pytest.fixture
def plan(tmp_path: Path, content: bytes) -> Plan:
    """The image lies in ``shared``, and is to be copied to ``local``."""
    for name in ("shared", "local"):
        (tmp_path / name).mkdir()
    image = tmp_path / "shared" / "net.sif"
    image.write_bytes(content)
    return Plan(
        pilot="p",
        nodes=("a",),
        image=str(image),
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=SIZE_BYTES,
        directory=str(tmp_path / "local"),
        limit_bytes=4 * SIZE_BYTES,
    )


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.communicate()


def command(plan: Plan) -> list[str]:
    return [sys.executable, "-m", STAGE_MODULE, encode_plan(plan)]


def told_of(process: subprocess.Popen[bytes]) -> Told:
    out, _ = process.communicate(timeout=PATIENCE_S)
    return decode_told(out)


def told(plan: Plan, **changes: Any) -> Told:
    done = subprocess.run(command(changed(plan, **changes)), capture_output=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr.decode()
    return decode_told(done.stdout)


def changed(plan: Plan, **changes: Any) -> Plan:
    return msgspec.structs.replace(plan, **changes)


def copies(plan: Plan) -> Path:
    return Path(plan.directory) / f"hpcserve-{os.geteuid()}"


def copy_of(plan: Plan, sha256: str = "", *, size_bytes: int = 0, used_s: int = LONG_AGO_S) -> Path:
    """A copy from an earlier day."""
    copies(plan).mkdir(mode=0o700, exist_ok=True)
    path = copies(plan) / f"{sha256 or plan.sha256}.sif"
    path.touch()
    os.truncate(path, size_bytes or plan.size_bytes)
    os.utime(path, (used_s, used_s))
    return path


def test_a_copy_is_whole_private_and_made_once(plan: Plan, content: bytes) -> None:
    first = told(plan)
    path = Path(first.path)
    assert (first.node, first.outcome, first.why) == ("a", "staged", "")
    assert path.read_bytes() == content
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    inode = path.stat().st_ino
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    assert told(plan, image="/nowhere") == first, "nobody reads it again"
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > LONG_AGO_S, "it was wanted now"


def test_one_of_several_at_once_copies_and_the_next_goes_on_when_it_is_killed(
    plan: Plan, content: bytes, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    fifo = tmp_path / "fifo"
    for path in (fifo, tmp_path / "new"):
        os.mkfifo(path)
    started.extend(subprocess.Popen(command(changed(plan, image=str(fifo))), stdout=subprocess.PIPE) for _ in range(3))
    part = copies(plan) / f"{plan.sha256}.part"

    with fifo.open("wb") as first:
        first.write(content[: PIECE_BYTES + 1])
        first.flush()
        until(lambda: part.exists() and part.stat().st_size, "it has begun to write")
        until(lambda: waiting_for(copies(plan) / ".lock") == 2, "the others wait")
        (writer,) = [each for each in started if str(part) in opened_by(each)]
        (tmp_path / "new").rename(fifo)  # the next one is not to read what this one has left
        writer.kill()
        writer.wait()
    with fifo.open("wb") as second:
        second.write(content)
    # A third one that opened the FIFO would wait for ever.
    assert {told_of(each).outcome for each in started if each is not writer} == {"staged"}
    assert sorted(path.name for path in copies(plan).iterdir()) == [
        ".lock",
        f"{plan.sha256}.p.wanted",
        f"{plan.sha256}.sif",
    ]


def waiting_for(locked: Path) -> int:
    """How many processes wait for the lock of a file; source: proc_locks(5)."""
    waits = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return sum(words[6].endswith(f":{locked.stat().st_ino}") for words in waits)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps the lock of a file, as another pilot's process would."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def opened_by(process: subprocess.Popen[bytes]) -> list[str]:
    return [os.readlink(each) for each in Path(f"/proc/{process.pid}/fd").iterdir()]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda whole: whole[:-1], f"{SIZE_BYTES - 1} bytes in place of {SIZE_BYTES}"),
        (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "its sha256 is another"),
    ],
    ids=["truncated", "damaged"],
)
def test_another_image_than_the_published_one_is_refused(plan: Plan, content: bytes, made: Any, why: str) -> None:
    Path(plan.image).write_bytes(made(content))
    found = told(plan)
    assert found.outcome == "refused"
    assert f"image {plan.image} is not the one with which the servable was published: {why}" in found.why
    assert [path.name for path in copies(plan).iterdir()] == [".lock"]


def test_what_was_wanted_longest_ago_makes_room_unless_it_is_in_use(plan: Plan) -> None:
    names = [letter * 64 for letter in "bcdef"]
    older, listed, opened, fresh, newer = (copy_of(plan, name, used_s=LONG_AGO_S + n) for n, name in enumerate(names))
    mark(plan, names[3])
    limit_bytes = 5 * plan.size_bytes
    with opened.open("rb"):
        found = told(plan, limit_bytes=limit_bytes, using=(names[1],))
        assert (found.outcome, found.removed) == ("staged", (names[0],))
        assert [each.exists() for each in (older, listed, opened, fresh, newer)] == [False, True, True, True, True]
        none = told(plan, limit_bytes=limit_bytes, using=(names[1], names[4]), sha256="0" * 64, image="/nowhere")
    assert (none.outcome, none.removed) == ("shared", ())
    assert "containers.stage_dir: no room for 17 MB" in none.why
    assert "of the 84 MB of stage_bytes images have 84 MB" in none.why


def mark(plan: Plan, sha256: str, *, pilot: str = "q", wanted_s: int | None = None) -> None:
    """A pilot has wanted it then, or now."""
    path = copies(plan) / f"{sha256}.{pilot}.wanted"
    path.touch()
    if wanted_s is not None:
        os.utime(path, (wanted_s, wanted_s))


def test_the_end_of_a_pilot_leaves_what_another_one_is_about_to_start_from(plan: Plan) -> None:
    """Its own marks don't count, and no old ones."""
    wanted, forgotten = copy_of(plan, "b" * 64), copy_of(plan, "c" * 64)
    for sha256 in ("b" * 64, "c" * 64):
        mark(plan, sha256, pilot="p")
    mark(plan, "b" * 64)
    mark(plan, "c" * 64, wanted_s=LONG_AGO_S)
    assert told(plan, remove=("b" * 64, "c" * 64)).removed == ("c" * 64,)
    assert (wanted.exists(), forgotten.exists()) == (True, False)
    assert [path.name for path in copies(plan).glob("*.wanted")] == [f"{'b' * 64}.q.wanted"]
    assert told(plan, remove=("b" * 64,), pilot="q").removed == ("b" * 64,), "who wanted it last removes it"


@pytest.mark.parametrize("how", [{"remove": ("b" * 64,)}, {"limit_bytes": SIZE_BYTES}], ids=["its end", "room"])
def test_a_copy_that_is_wanted_just_when_it_would_go_stays(
    plan: Plan, how: Any, started: list[subprocess.Popen[bytes]]
) -> None:
    copy = copy_of(plan, "b" * 64)
    one, other = socket.socketpair()
    with one, other:
        with copy.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            socket.send_fds(one, [b"-"], [file.fileno()])  # while it is on its way, no process has the file open
        started.append(subprocess.Popen(command(changed(plan, **how)), stdout=subprocess.PIPE))
        until(lambda: waiting_for(copy) == 1, "it is about to go")
        mark(plan, "b" * 64)
    told_of(started[0])
    assert copy.exists()


def test_the_end_of_a_pilot_removes_its_copies_and_no_open_one(plan: Plan) -> None:
    mine, other, opened = (copy_of(plan, letter * 64) for letter in "bcd")
    (copies(plan) / "of-the-dead.part").touch()
    with opened.open("rb"):
        told(plan, remove=("b" * 64, "d" * 64, "e" * 64))
    assert [each.exists() for each in (mine, other, opened)] == [False, True, True]
    assert not list(copies(plan).glob("*.part"))


def test_a_directory_that_others_may_write_to_is_not_used(plan: Plan, tmp_path: Path) -> None:
    place = copies(plan)
    place.mkdir()
    place.chmod(0o770)
    found = told(plan)
    assert found.outcome == "shared"
    assert f"containers.stage_dir: {place} is not a directory of this user alone: others could" in found.why
    place.rmdir()
    place.symlink_to(tmp_path / "shared")
    assert "is not a directory of this user alone" in told(plan).why
    assert told(plan, directory="/nowhere").why.endswith(f"/nowhere/hpcserve-{os.geteuid()}: No such file or directory")


# --- several nodes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_mounts_possible() -> None:
    """Skips where a process cannot have mounts of its own."""
    done = subprocess.run(own_mounts("true", ["true"]), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no mounts of a process's own on this machine: {done.stderr}")


def own_mounts(script: str, argv: list[str]) -> list[str]:
    """A command that runs after others have changed mounts for it alone."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--mount", "sh", "-c", f'set -e\n{script}\nexec "$@"', "sh", *argv]


def on_nodes(plan: Plan, tmp_path: Path, **scripts: str) -> list[str]:
    """The command that starts the program once on each node; only the first one sees where the image lies."""
    words: list[str] = [str(MPIEXEC)]
    for number, node in enumerate(plan.nodes):
        (tmp_path / node).mkdir(exist_ok=True)
        hide = f"mount -t tmpfs none {shlex.quote(str(Path(plan.image).parent))}\n" if number else ""
        script = f"{hide}mount --bind {tmp_path}/{node} {plan.directory}\n{scripts.get(node, '')}"
        words += [":"] if number else []
        words += ["-n", "1", "-env", "SLURMD_NODENAME", node, *own_mounts(script, command(plan))]
    return words


def all_told(plan: Plan, tmp_path: Path, **scripts: str) -> dict[str, Told]:
    argv = on_nodes(plan, tmp_path, **scripts)
    done = subprocess.run(argv, capture_output=True, check=False, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stderr.decode()
    found = [decode_told(line) for line in done.stdout.splitlines()]
    assert sorted(each.node for each in found) == sorted(plan.nodes)
    return {each.node: each for each in found}


def arrived(plan: Plan, tmp_path: Path, node: str) -> bool:
    path = tmp_path / node / copies(plan).name / f"{plan.sha256}.sif"
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == plan.sha256


@pytest.mark.usefixtures("own_mounts_possible")
def test_one_node_reads_the_image_and_all_get_it(plan: Plan, tmp_path: Path) -> None:
    plan = changed(plan, nodes=("a", "b", "c"))
    assert {each.outcome for each in all_told(plan, tmp_path).values()} == {"staged"}
    assert all(arrived(plan, tmp_path, node) for node in plan.nodes)
    # A node that comes later gets it from the first one's copy; nobody reads from where it lies.
    later = changed(plan, nodes=("a", "d"), image=f"{plan.image}.gone")
    found = all_told(later, tmp_path)
    assert {node: each.outcome for node, each in found.items()} == {"a": "staged", "d": "staged"}
    assert arrived(plan, tmp_path, "d")


@pytest.mark.usefixtures("own_mounts_possible")
def test_a_node_whose_disk_is_full_does_without_and_the_others_do_not(plan: Plan, tmp_path: Path) -> None:
    plan = changed(plan, nodes=("a", "b", "c"))
    # The first one reads for the others nevertheless.
    small = f"mount -t tmpfs -o size=4m none {plan.directory}"
    found = all_told(plan, tmp_path, a=small, c=small)
    assert {node: each.outcome for node, each in found.items()} == {"a": "shared", "b": "staged", "c": "shared"}
    assert "no room for 17 MB" in found["a"].why
    assert arrived(plan, tmp_path, "b")


@pytest.mark.usefixtures("own_mounts_possible")
def test_a_disk_that_is_full_while_it_writes(plan: Plan, tmp_path: Path) -> None:
    plan = changed(plan, nodes=("a", "b"))
    # A limit of a file's size is met while it is written, as a quota is.
    found = all_told(plan, tmp_path, b=f"ulimit -f {2 * PIECE_BYTES // 512}")
    assert {node: each.outcome for node, each in found.items()} == {"a": "staged", "b": "shared"}
    assert "File too large" in found["b"].why
    assert [path.name for path in (tmp_path / "b" / copies(plan).name).iterdir()] == [".lock"]


@pytest.mark.usefixtures("own_mounts_possible")
def test_a_damaged_image_is_refused_on_all_nodes(plan: Plan, content: bytes, tmp_path: Path) -> None:
    Path(plan.image).write_bytes(content[:-9])
    found = all_told(changed(plan, nodes=("a", "b")), tmp_path)
    assert {each.outcome for each in found.values()} == {"refused"}
    assert len({each.why for each in found.values()}) == 1


@pytest.mark.usefixtures("own_mounts_possible")
def test_an_image_that_cannot_be_read_is_told_on_all_nodes(plan: Plan, tmp_path: Path) -> None:
    Path(plan.image).unlink()
    found = all_told(changed(plan, nodes=("a", "b")), tmp_path)
    assert {each.outcome for each in found.values()} == {"shared"}
    assert all("No such file or directory" in each.why for each in found.values())


@pytest.mark.usefixtures("own_mounts_possible")
def test_a_damaged_copy_of_the_reader_is_removed(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    damaged = copy_of(changed(plan, directory=str(tmp_path / "a")))
    two = changed(plan, nodes=("a", "b"))
    found = all_told(two, tmp_path)
    assert {each.outcome for each in found.values()} == {"shared"}
    assert "was damaged; it is removed" in found["b"].why
    assert not damaged.exists()
    assert {each.outcome for each in all_told(two, tmp_path).values()} == {"staged"}, "the next time they get it"


@pytest.mark.usefixtures("own_mounts_possible")
def test_a_damaged_copy_is_removed_by_who_has_the_lock_and_nothing_in_its_place(
    plan: Plan, content: bytes, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "a").mkdir()
    damaged = copy_of(changed(plan, directory=str(tmp_path / "a")))
    lock, new = damaged.with_name(".lock"), damaged.with_name("new")
    with locked(lock):
        argv = on_nodes(changed(plan, nodes=("a", "b")), tmp_path)
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
        until(lambda: waiting_for(lock) == 1, "it has seen that it is damaged")
        assert damaged.exists()
        new.write_bytes(content)
        new.rename(damaged)
    started[0].communicate(timeout=PATIENCE_S)
    assert arrived(plan, tmp_path, "a")


@pytest.mark.usefixtures("own_mounts_possible")
def test_where_another_pilot_copies_on_a_node_that_is_waited_for(plan: Plan, tmp_path: Path) -> None:
    """Its directory is the same for all: the shared file system is one that all nodes see."""
    plan = changed(plan, nodes=("a", "b", "c"))
    same = f"umount {plan.directory}\nmount --bind {tmp_path}/a {plan.directory}"
    found = all_told(plan, tmp_path, b=same, c=same)
    assert {each.outcome for each in found.values()} == {"staged"}
    assert arrived(plan, tmp_path, "a")


def test_without_mpi_each_node_reads_it_and_says_why(plan: Plan) -> None:
    found = told(plan, nodes=("a", "b"))  # this one was not started by mpiexec
    assert found.outcome == "staged"
    assert found.alone == "MPI started 1 process in each of 2, not one group of them"
