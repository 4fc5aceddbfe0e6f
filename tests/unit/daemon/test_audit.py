"""The audit log, on a real disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpcserve.core.floods import Floods
from hpcserve.daemon.audit import PUT_OUT, AuditLog, Record, audit_path


def record(action: str = "call", *, allowed: bool = True, what: str = "digits", name: str = "ada") -> Record:
    return Record(action=action, object=what, allowed=allowed, by="access.call *", name=name)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def test_a_line_says_all_that_there_is_to_say(tmp_path: Path) -> None:
    log = AuditLog(audit_path(tmp_path, "controller"))
    log.write(
        Record(
            action="publish",
            object="digits",
            allowed=False,
            by="access.publish",
            reason="no rule names bob",
            name="bob",
            id="7f6b",
            account="bob",
            key="k" * 40,
            token_sha256="ab" * 32,
            session="cd" * 16,
            request="7",
            peer="10.0.0.7",
        )
    )
    [line] = lines(log.path)
    assert line.pop("time").endswith("Z")
    assert line == {
        "action": "publish",
        "object": "digits",
        "allowed": False,
        "by": "access.publish",
        "reason": "no rule names bob",
        "name": "bob",
        "id": "7f6b",
        "account": "bob",
        "key": "k" * 40,
        "token_sha256": "ab" * 32,
        "session": "cd" * 16,
        "request": "7",
        "peer": "10.0.0.7",
        "left_out": 0,
    }


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    log = AuditLog(audit_path(tmp_path, "controller"))
    log.write(record())
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700


def test_what_stands_there_stays(tmp_path: Path) -> None:
    path = audit_path(tmp_path, "controller")
    AuditLog(path).write(record(what="first"))
    AuditLog(path).write(record(what="second"))
    assert [line["object"] for line in lines(path)] == ["first", "second"]


def test_a_line_that_a_daemon_before_left_unfinished_spoils_no_other(tmp_path: Path) -> None:
    path = audit_path(tmp_path, "controller")
    AuditLog(path).write(record(what="first"))
    with path.open("ab") as file:
        file.write(b'{"time": "20')
    AuditLog(path).write(record(what="second"))
    first, _torn, second = path.read_bytes().splitlines()
    assert [json.loads(each)["object"] for each in (first, second)] == ["first", "second"]


def test_a_long_file_is_put_aside_and_the_last_few_stay(tmp_path: Path) -> None:
    log = AuditLog(audit_path(tmp_path, "controller"), max_bytes=1, kept=2)
    for name in ("one", "two", "three", "four"):
        log.write(record(what=name))
    kept = {path.name: lines(path)[0]["object"] for path in log.path.parent.iterdir()}
    assert kept == {"controller.jsonl.1": "four", "controller.jsonl.2": "three"}


def test_a_flood_of_denials_becomes_a_number(tmp_path: Path) -> None:
    log = AuditLog(audit_path(tmp_path, "controller"), floods=Floods(denied=(1e-9, 2.0)))
    for _ in range(1000):
        log.write(record(allowed=False))
    log.write(record("deploy"))
    assert [(line["action"], line["left_out"]) for line in lines(log.path)] == [
        ("call", 0),
        ("call", 0),
        ("deploy", 998),
    ]


def test_all_strangers_share_the_lines_of_one_caller(tmp_path: Path) -> None:
    log = AuditLog(audit_path(tmp_path, "admission"), floods=Floods(denied=(1e-9, 5.0)))
    for number in range(1000):
        log.write(Record(action="hello", object="service", allowed=False, by="globus", key=f"key-{number}"))
    log.write(record("hello", allowed=False))
    assert [line["name"] for line in lines(log.path)] == [""] * 5 + ["ada"]


def test_that_somebody_was_put_out_is_never_left_out(tmp_path: Path) -> None:
    log = AuditLog(audit_path(tmp_path, "admission"), floods=Floods(denied=(1e-9, 1.0), asked=(1e-9, 1.0)))
    for _ in range(100):
        log.write(record(PUT_OUT, allowed=False))
    assert len(lines(log.path)) == 100


def test_what_a_caller_writes_is_cut_short_and_stays_one_line(tmp_path: Path) -> None:
    log = AuditLog(audit_path(tmp_path, "controller"))
    log.write(record(what="x\n{" * 100_000))
    [line] = lines(log.path)
    assert len(line["object"]) == 500


def test_a_full_disk_is_said_once_and_what_was_lost_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(audit_path(tmp_path, "controller"))
    log.write(record(what="before"))
    with caplog.at_level(logging.WARNING), no_room_past(log.path.stat().st_size + 20):
        for _ in range(5):
            log.write(record(what="lost"))
    assert [line.levelname for line in caplog.records] == ["ERROR"]
    assert os.strerror(errno.EFBIG) in caplog.text or "only 20 of" in caplog.text
    log.write(record(what="after"))
    whole = lines(log.path)
    assert [line["object"] for line in whole] == ["before", "", "after"]
    assert whole[1]["reason"].startswith("5 lines are missing")


@contextmanager
def no_room_past(size_bytes: int) -> Iterator[None]:
    """No file of this process can become longer: the system's own way to make a small disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
