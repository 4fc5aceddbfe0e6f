"""What a client learns of another daemon from the record, while it is told nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from hpcserve.client.services import Service
from hpcserve.client.successor import Successor
from hpcserve.client.ways import way_to
from hpcserve.core import silence
from hpcserve.core.lease import broker_epoch
from hpcserve.wire.record import ServiceRecord, encode_record

OWN = broker_epoch(7, 1)
KEY, OTHER_KEY = "k" * 40, "o" * 40
RECORD = ServiceRecord(
    format=1,
    service="site",
    site="site",
    host="login1",
    pid=1,
    epoch=OWN,
    public_key=KEY,
    admission=("tcp://127.0.0.1:1",),
    front=("tcp://127.0.0.1:2",),
    back=("tcp://127.0.0.1:3",),
    software="hpcserve",
)
LATER = replace(RECORD, epoch=broker_epoch(8, 1))
PATIENCE_S = 60.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(silence, "FIRST_S", 0.0)
    return tmp_path / "service.json"


def read(successor: Successor) -> bool:
    """What is known when the record has been read once more."""
    found = successor.is_there(0, waits=True)
    for thread in threading.enumerate():
        if thread.name == "hpcserve-record":
            thread.join(PATIENCE_S)
    return found or successor.is_there(0, waits=True)


@pytest.mark.parametrize(
    ("content", "is_there"),
    [
        (encode_record(LATER), True),
        (encode_record(replace(RECORD, epoch=broker_epoch(7, 2))), True),
        (encode_record(RECORD), False),
        (encode_record(replace(RECORD, epoch=broker_epoch(6, 9))), False),
        (encode_record(LATER)[:99], False),
        (encode_record(replace(LATER, format=2)), False),
        (encode_record(replace(LATER, public_key=OTHER_KEY)), False),
        (b"", False),
        (None, False),
    ],
    ids=["later", "restarted", "same", "earlier", "half", "of a later format", "of another service", "empty", "gone"],
)
def test_only_a_later_epoch_of_the_same_service_is_a_successor(
    place: Path, content: bytes | None, *, is_there: bool
) -> None:
    if content is not None:
        place.write_bytes(content)
    assert read(Successor(way_to(Service(place, KEY)), OWN)) is is_there


def test_a_record_that_vanishes_and_comes_back_is_read_again(place: Path) -> None:
    successor = Successor(way_to(Service(place, KEY)), OWN)
    assert not read(successor)
    place.write_bytes(encode_record(LATER))
    until = time.monotonic() + PATIENCE_S
    while not read(successor):
        assert time.monotonic() < until
