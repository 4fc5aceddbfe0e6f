"""What the traces of a daemon say: its record, its lease, its sockets, its clock; of one that runs and of none."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.cluster.processes import is_stopped, start_time
from hpcserve.cluster.site_host import Listeners
from hpcserve.config import Daemon, Network, Scheduler, Site, read_site, runtime_dir
from hpcserve.core.lease import Lease
from hpcserve.daemon import health, processes
from hpcserve.daemon.lease import HeldLease, acquire
from hpcserve.daemon.record import write_record
from hpcserve.types import Epoch
from hpcserve.wire.record import ServiceRecord
from tests.integration.daemon_tree import until

HERE = socket.gethostname()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    for name in ("state", "shared"):
        (tmp_path / name).mkdir(mode=0o700)
    places = {"state_dir": tmp_path / "state", "shared_dir": tmp_path / "shared"}
    return msgspec.structs.replace(read_site("local"), **places)


@contextlib.contextmanager
def stopped() -> Iterator[int]:
    """A process that stands still."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: is_stopped(process.pid), "it stands still")
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    made.close()


def held(site: Site) -> HeldLease:
    return acquire(site.shared_dir, state_dir=site.state_dir, service="key", lease_s=15.0)


def rewrite(site: Site, **changes: Any) -> None:
    """Changes the lease, as another daemon would have written it."""
    (path,) = site.shared_dir.glob("lease-*.json")
    lease = msgspec.json.decode(path.read_bytes(), type=Lease)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(lease, **changes)))


def published(*addresses: str, host: str = HERE, pid: int = 0) -> ServiceRecord:
    admission, front, back = (f"tcp://{each}" for each in (*addresses, *["127.0.0.1:1"] * 3)[:3])
    return ServiceRecord(
        format=1,
        service="local",
        site="local",
        host=host,
        pid=pid or os.getpid(),
        epoch=Epoch(1),
        public_key="k" * 40,
        admission=(admission,),
        front=(front,),
        back=(back,),
        software="hpcserve 1",
    )


def test_where_no_daemon_runs_it_is_said_how_to_start_one(site: Site) -> None:
    record, found = health.record(site)
    assert record is None
    assert found.outcome == "failed"
    assert found.told.endswith("service.json does not exist); start one: hpcserve up")
    assert health.lease(site, None).outcome == "skipped"
    assert health.ports(site, None).outcome == "ok"


def test_where_the_job_of_a_daemon_waits_nobody_is_told_to_start_one(site: Site) -> None:
    record, found = health.record(site, "7 is queued: Priority")
    assert record is None
    assert (found.outcome, found.told) == (
        "warning",
        "no daemon can be called yet; wait for its job, 7 is queued: Priority",
    )


def test_the_host_of_a_daemon_that_runs_in_a_job_is_not_judged_by_this_one(site: Site, listeners: Listeners) -> None:
    lab = msgspec.structs.replace(
        site, network=Network(host="hsn0"), daemon=Daemon(placement="job"), scheduler=Scheduler(kind="slurm")
    )
    assert health.interface(lab, None).outcome == "skipped"
    assert health.ports(lab, None).outcome == "skipped"
    addresses = [listeners.open("127.0.0.1") for _ in range(3)]
    assert health.ports(lab, published(*addresses, host="node7")).outcome == "ok", "here it can be told"


def test_a_record_is_told_and_a_broken_one_too(site: Site) -> None:
    path = write_record(site.shared_dir, published())
    record, found = health.record(site)
    assert (record, found.outcome) == (published(), "ok")
    path.write_text(path.read_text()[:40])
    record, found = health.record(site)
    assert record is None
    assert f"{path}: not a whole service record" in found.told
    path.write_text("{}")
    assert f"{path}: not a service record" in health.record(site)[1].told


def test_a_lease_that_is_held_is_told_with_its_holder(site: Site) -> None:
    held(site)
    found = health.lease(site, published())
    assert found.outcome == "ok"
    assert found.told.startswith(f"epoch 1, held by pid {os.getpid()} on {HERE}, renewed 0 s ago")


@pytest.mark.parametrize(
    ("changes", "outcome", "told"),
    [
        ({"released": True}, "failed", "the daemon of the record has given it up"),
        (
            {"started": "never"},
            "failed",
            "its holder, pid ",
        ),
        ({"pid": 1, "host": "login2", "boot": "x"}, "failed", "it is held by pid 1 on login2, which is not ready yet"),
    ],
)
def test_a_lease_that_does_not_fit_the_record_is_told(
    site: Site, changes: dict[str, Any], outcome: str, told: str
) -> None:
    held(site)
    rewrite(site, **changes)
    found = health.lease(site, published())
    assert found.outcome == outcome
    assert found.told.startswith(told)
    if "started" in changes:
        assert found.told.startswith(f"its holder, pid {os.getpid()} on {HERE}, has ended without a word; hpcserve up")


def test_a_lease_that_was_not_renewed_for_long_is_a_warning(site: Site) -> None:
    held(site)
    rewrite(site, boot="another host's", host="login2", renewed_s=time.time() - 300)
    (path,) = site.shared_dir.glob("lease-*.json")
    os.utime(path, (time.time() - 300, time.time() - 300))
    found = health.lease(site, published(host="login2"))
    assert found.outcome == "warning"
    assert "renewed 5 min" in found.told


def test_a_holder_here_that_does_not_renew_its_lease_is_a_failure(site: Site) -> None:
    with stopped() as pid:
        held(site)
        rewrite(site, pid=pid, started=start_time(pid), renewed_s=time.time() - 20)
        (path,) = site.shared_dir.glob("lease-*.json")
        os.utime(path, (time.time() - 20, time.time() - 20))
        found = health.lease(site, published(pid=pid))
        assert found.outcome == "failed"
        assert "renewed 20 s ago, though it lasts 15 s: the process was stopped by somebody (SIGSTOP)" in found.told
        assert found.told.endswith(
            f"kill -CONT {pid}, or to put another in its place: kill -KILL {pid}, then hpcserve up"
        )
        os.kill(pid, signal.SIGCONT)
        until(lambda: not is_stopped(pid), "it goes on")
        assert "the process waits, as a rule for the file system" in health.lease(site, published(pid=pid)).told


def test_processes_that_stand_still_or_have_ended_are_named(site: Site) -> None:
    place = runtime_dir(site.state_dir)
    assert health.running(site, None).outcome == "skipped"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with stopped() as pid:
        processes.write(place, {"supervisor": os.getpid(), "broker": pid})
        assert health.running(site, published(host="login2")).outcome == "skipped"
        found = health.running(site, published())
        assert found.outcome == "failed"
        assert found.told.startswith(f"the broker (pid {pid}) was stopped by somebody (SIGSTOP); the supervisor lets")
        os.kill(pid, signal.SIGCONT)
        until(lambda: not is_stopped(pid), "it goes on")
        assert health.running(site, published()).told == f"supervisor {os.getpid()}, broker {pid}"
    found = health.running(site, published())
    assert (found.outcome, "broker has ended" in found.told) == ("warning", True)
    shutil.rmtree(place)


def test_a_lease_that_cannot_be_read_is_told(site: Site) -> None:
    held(site)
    (path,) = site.shared_dir.glob("lease-*.json")
    path.write_bytes(b"{")
    assert health.lease(site, published()).told.startswith("its file cannot be read")


def test_sockets_that_answer_are_listed_and_others_are_told(site: Site, listeners: Listeners) -> None:
    addresses = [listeners.open("127.0.0.1") for _ in range(3)]
    found = health.ports(site, published(*addresses))
    assert (found.outcome, found.told.split()[:2]) == ("ok", ["admission", addresses[0] + ","])
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = f"127.0.0.1:{gone.getsockname()[1]}"
    found = health.ports(site, published(*addresses[:2], closed))
    assert found.outcome == "failed"
    assert found.told.startswith(f"this host does not reach the daemon's back at {closed}: refused")


@pytest.mark.parametrize(
    ("record", "host", "outcome", "told"),
    [
        (None, "lo", "ok", "lo is 127.0.0.1"),
        (None, "nope0", "failed", "network.host: 'nope0' is no interface"),
        (published("127.0.0.1:7"), "lo", "ok", "lo is 127.0.0.1"),
        (
            published("10.1.2.3:7"),
            "lo",
            "failed",
            "the daemon listens at 10.1.2.3, and network.host = 'lo' is 127.",
        ),
        (published(host="login2"), "nope0", "skipped", "the daemon is on login2: run hpcserve doctor there"),
    ],
)
def test_the_interface_is_that_of_the_site_file_and_of_the_daemon(
    site: Site, record: ServiceRecord | None, host: str, outcome: str, told: str
) -> None:
    found = health.interface(msgspec.structs.replace(site, network=Network(host=host)), record)
    assert found.outcome == outcome
    assert found.told.startswith(told)


def test_a_shared_directory_on_a_disk_of_this_host_is_a_warning_for_a_cluster(site: Site) -> None:
    assert health.shared_dir(site).outcome == "ok"
    cluster = msgspec.structs.replace(site, scheduler=Scheduler(kind="slurm"))
    found = health.shared_dir(cluster)
    assert found.outcome == "warning", "the tests' own directory is on one"
    assert found.told.endswith("set shared_dir to a place that compute nodes see too")


def test_clocks_that_differ_are_a_warning(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.clock(site).outcome == "ok"
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + 90)
    found = health.clock(site)
    assert found.outcome == "warning"
    assert found.told.startswith("90 s ahead of that of shared_dir's file server")
    assert health.clock(msgspec.structs.replace(site, shared_dir=Path("/nowhere"))).outcome == "skipped"
