"""The lease's files: one holder, and never the same epoch twice."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import msgspec
import pytest

from hpcserve.core.lease import Lease
from hpcserve.daemon.lease import HeldLease, acquire
from hpcserve.errors import ConfigError, Conflict

LEASE_S = 0.6
SERVICE = "ours"
ELSEWHERE = Lease(
    host="elsewhere",
    boot="another",
    namespace="pid:[1]",
    pid=1,
    started="1",
    since_s=time.time(),
    renewed_s=time.time(),
    lease_s=LEASE_S,
)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def take(shared: Path, lease_s: float = LEASE_S) -> HeldLease:
    return acquire(shared, state_dir=shared.parent / "state", service=SERVICE, lease_s=lease_s)


def put(shared: Path, epoch: int, lease: Lease) -> Path:
    path = shared / f"lease-{epoch:08d}.json"
    path.write_bytes(msgspec.json.encode(lease))
    return path


def test_the_first_takes_epoch_one_and_a_second_is_told_who_has_it(shared: Path) -> None:
    held = take(shared)
    assert held.epoch == 1
    with pytest.raises(Conflict, match=rf"already runs on .* as pid {os.getpid()} \(since .*hpcserve down"):
        take(shared)
    assert held.renew()
    assert os.listdir(shared) == ["lease-00000001.json"]


def test_a_released_lease_is_taken_at_once_with_a_greater_epoch(shared: Path) -> None:
    take(shared).release()
    assert take(shared, lease_s=1000).epoch == 2, "watching it would have taken 1000 s"
    assert os.listdir(shared) == ["lease-00000002.json"], "older ones are deleted"


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(shared: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hpcserve.daemon.lease import acquire;"
        "acquire(Path(sys.argv[1]), state_dir=Path(sys.argv[2]), service='ours', lease_s=1000)"
    )
    subprocess.run([sys.executable, "-c", script, str(shared), str(shared.parent / "state")], check=True)
    assert take(shared).epoch == 2


def test_a_pid_that_was_given_again_is_not_the_holder(shared: Path) -> None:
    held = take(shared)
    lease = msgspec.json.decode((shared / "lease-00000001.json").read_bytes(), type=Lease)
    put(shared, 1, msgspec.structs.replace(lease, started="1"))
    assert take(shared).epoch == 2
    assert not held.renew()


def test_the_lease_of_another_host_is_watched_before_it_is_taken(shared: Path) -> None:
    put(shared, 7, ELSEWHERE)
    began = time.monotonic()
    assert take(shared).epoch == 8
    assert time.monotonic() - began >= LEASE_S


def test_a_sign_of_life_of_another_host_keeps_its_lease(shared: Path) -> None:
    path = put(shared, 7, ELSEWHERE)
    renewed = msgspec.structs.replace(ELSEWHERE, renewed_s=ELSEWHERE.renewed_s + 1)

    def renew(_for_s: float) -> None:
        put(shared, 7, renewed)

    def touch(_for_s: float) -> None:
        os.utime(path, (time.time() + 5, time.time() + 5))

    for sign_of_life in (renew, touch):
        with pytest.raises(Conflict, match="runs on elsewhere as pid 1"):
            acquire(shared, state_dir=shared.parent / "state", service=SERVICE, lease_s=LEASE_S, wait=sign_of_life)


def test_a_lease_that_is_grossly_old_is_not_watched(shared: Path) -> None:
    path = put(shared, 7, msgspec.structs.replace(ELSEWHERE, renewed_s=0))
    os.utime(path, (0, 0))
    assert take(shared, lease_s=1000).epoch == 8, "watching it would have taken 1000 s"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b'{"host": 1}'])
def test_a_file_that_is_no_lease_is_watched_and_then_passed_over(shared: Path, content: bytes) -> None:
    (shared / "lease-00000004.json").write_bytes(content)
    (shared / "lease-x.json").touch()
    (shared / ".lease-00000099.json.77.draft").touch()
    began = time.monotonic()
    assert take(shared).epoch == 5
    assert time.monotonic() - began >= LEASE_S


def test_the_lease_of_another_state_directory_is_left_alone(shared: Path) -> None:
    theirs = msgspec.structs.replace(ELSEWHERE, service="theirs")
    put(shared, 7, theirs)
    with pytest.raises(ConfigError, match=rf"ran last on elsewhere: state_dir {shared.parent}/state is not .*lease-\*"):
        take(shared)
    assert os.listdir(shared) == ["lease-00000007.json"]
    put(shared, 7, msgspec.structs.replace(theirs, service=SERVICE, released=True))
    assert take(shared).epoch == 8


def test_a_purged_directory_does_not_begin_again(shared: Path) -> None:
    for _ in range(3):
        take(shared).release()
    for path in shared.iterdir():
        path.unlink()
    assert take(shared).epoch == 4


def test_a_holder_that_was_overtaken_learns_it_and_leaves_the_successor_alone(shared: Path) -> None:
    held = take(shared)
    put(shared, 2, ELSEWHERE)
    assert not held.renew()
    assert held.successor() == "elsewhere as pid 1"
    held.release()
    assert (shared / "lease-00000002.json").read_bytes() == msgspec.json.encode(ELSEWHERE)


def test_a_holder_whose_file_was_purged_keeps_the_lease(shared: Path) -> None:
    held = take(shared)
    (shared / "lease-00000001.json").unlink()
    assert held.renew()
    with pytest.raises(Conflict):
        take(shared)


def test_a_full_disk_does_not_end_a_holder(shared: Path) -> None:
    held = take(shared)
    path = shared / "lease-00000001.json"
    os.utime(path, (0, 0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        assert held.renew()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_mtime > 0, "who watches sees a sign of life"


def _try(shared: str) -> int | None:
    try:
        return take(Path(shared), 1000).epoch
    except Conflict:
        return None


def test_of_many_at_once_one_gets_it(shared: Path) -> None:
    with get_context("spawn").Pool(4) as pool:
        taken = pool.map(_try, [str(shared)] * 4, chunksize=1)
    assert sorted(taken, key=str) == [1, None, None, None]
