"""Transfers whose bytes real GridFTP servers move, from one to the other."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve.testing.globus.gridftp import GridftpMover, MoverMissing
from tests.integration.globus.setting import Setting, standing_in
from tests.integration.globus.transfers import Transfers, between


def children(name: str) -> list[int]:
    """Processes that this one started, by the first 15 characters of their name."""
    found: list[int] = []
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # A thread or a child has just ended.
            pids = listed.read_text().split()
            found += [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == name]
    return found


@pytest.fixture
def gridftp(setting: Setting) -> Iterator[Transfers]:
    mover = GridftpMover()
    setting.globus.transfer.queue.mover = mover
    yield between(setting)
    mover.close()


def test_files_of_all_sizes_and_names_arrive(gridftp: Transfers) -> None:
    names = {"empty": 0, "one": 1, "d/a b%25?#;": 1000, "large": 50_000_000}
    contents = {name: gridftp.write(name, size) for name, size in names.items()}
    done = gridftp.ended(gridftp.send(*((f"/{name}", f"/in/{name}") for name in names), verify_checksum=True))
    assert (done["status"], done["faults"]) == ("SUCCEEDED", 0)
    assert done["bytes_transferred"] == sum(names.values()) == done["bytes_checksummed"]
    for name in names:
        assert gridftp.arrived(f"in/{name}").read_bytes() == contents[name]


def test_what_was_there_is_replaced(gridftp: Transfers) -> None:
    contents = gridftp.write("a", 10)
    gridftp.arrived("a").write_bytes(os.urandom(5000))
    assert gridftp.ended(gridftp.send(("/a", "/a"), verify_checksum=True))["bytes_transferred"] == 10
    assert gridftp.arrived("a").read_bytes() == contents


def test_a_wrong_byte_is_found(gridftp: Transfers) -> None:
    contents = gridftp.write("a")
    gridftp.laptop.trouble.corrupt = 1
    done = gridftp.ended(gridftp.send(("/a", "/a"), verify_checksum=True))
    assert (done["status"], done["faults"]) == ("SUCCEEDED", 1)
    assert gridftp.arrived("a").read_bytes() == contents


def test_what_the_servers_refuse_is_said_and_tried_again(gridftp: Transfers) -> None:
    contents = gridftp.write("a")
    gridftp.arrived("a").mkdir()
    task = gridftp.send(("/a", "/a"))
    assert gridftp.until(task, lambda shown: shown["faults"])["nice_status"] == "IS_A_DIRECTORY"
    gridftp.arrived("a").rmdir()
    assert gridftp.ended(task)["status"] == "SUCCEEDED"
    assert gridftp.arrived("a").read_bytes() == contents


def test_a_name_that_the_servers_would_get_wrong_is_refused(gridftp: Transfers) -> None:
    gridftp.write("é")
    shown = gridftp.until(gridftp.send(("/é", "/a")), lambda shown: shown["faults"])
    assert "knows no names outside of ASCII" in shown["nice_status_details"]


def test_a_cancelled_task_ends_its_copy(gridftp: Transfers) -> None:
    gridftp.write("a", 64_000_000)
    gridftp.laptop.trouble.bytes_per_s = 1
    task = gridftp.send(("/a", "/a"))
    gridftp.until(task, lambda shown: shown["bytes_transferred"])
    gridftp.client().cancel_task(task)
    assert gridftp.ended(task)["status"] == "FAILED"
    deadline = time.monotonic() + 60
    while children("globus-url-copy"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_servers_end_with_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(tmp_path) as setting:
        for name, value in setting.globus.environment.items():
            monkeypatch.setenv(name, value)
        setting.globus.transfer.queue.mover = GridftpMover()
        gridftp = between(setting)
        gridftp.write("a")
        gridftp.ended(gridftp.send(("/a", "/a")))
        assert len(children("globus-gridftp-")) == 2
    assert children("globus-gridftp-") == []


def test_without_its_programs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcserve.testing.globus.gridftp.SBIN", "")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MoverMissing, match="install globus-gridftp-server-progs and globus-gass-copy-progs"):
        GridftpMover()
