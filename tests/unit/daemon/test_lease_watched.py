"""What is concluded from the lease of a daemon on another host that is watched: whether the daemon lives."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from hpcserve.core.lease import Lease
from hpcserve.daemon.lease import Seen, watch

LEASE_S = 0.6
ELSEWHERE = Lease(
    host="elsewhere",
    boot="another",
    namespace="pid:[1]",
    pid=1,
    started="1",
    since_s=0.0,
    renewed_s=0.0,
    lease_s=LEASE_S,
)
LASTING = msgspec.structs.replace(ELSEWHERE, lease_s=1000.0)
GIVEN_BACK = msgspec.structs.replace(LASTING, renewed_s=1.0, released=True)
RENEWED = msgspec.structs.replace(LASTING, renewed_s=1.0)
MOST_LOOKS = 1000


def put(shared: Path, content: bytes | Lease, epoch: int = 7) -> None:
    raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
    (shared / f"lease-{epoch:08d}.json").write_bytes(raw)


def watched(shared: Path, *, within_s: float, meanwhile: Callable[[Path], None] = lambda _: None) -> tuple[Seen, int]:
    """What was seen, and after how many waits; what happens ``meanwhile`` does so in the first of them."""
    waits = 0

    def wait(_for_s: float) -> None:
        nonlocal waits
        waits += 1
        assert waits < MOST_LOOKS, "it is watched for ever"
        if waits == 1:
            meanwhile(shared)
        time.sleep(0.01)

    return watch(shared, time.monotonic() + within_s, wait=wait), waits


class Case(NamedTuple):
    first: bytes | Lease | None
    then: Callable[[Path], None]
    renewed: bool
    released: bool


def touched(shared: Path) -> None:
    os.utime(shared / "lease-00000007.json", (5.0, 5.0))


def purged(shared: Path) -> None:
    (shared / "lease-00000007.json").unlink()


def nothing(_shared: Path) -> None:
    pass


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(None, nothing, renewed=False, released=True), id="there is none"),
        pytest.param(Case(GIVEN_BACK, nothing, renewed=False, released=True), id="given back before"),
        pytest.param(Case(LASTING, purged, renewed=False, released=True), id="removed"),
        pytest.param(
            Case(LASTING, lambda shared: put(shared, GIVEN_BACK), renewed=False, released=True), id="given back"
        ),
        pytest.param(Case(LASTING, lambda shared: put(shared, RENEWED), renewed=True, released=False), id="renewed"),
        pytest.param(Case(LASTING, touched, renewed=True, released=False), id="touched on a full disk"),
        pytest.param(Case(b"{", touched, renewed=True, released=False), id="touched and not readable"),
        pytest.param(
            Case(LASTING, lambda shared: put(shared, LASTING, 8), renewed=True, released=False), id="the next one taken"
        ),
        pytest.param(
            Case(LASTING, lambda shared: put(shared, GIVEN_BACK, 8), renewed=True, released=False),
            id="the next one taken and given back",
        ),
    ],
)
def test_what_happens_to_a_lease_is_seen_at_the_next_look(case: Case, tmp_path: Path) -> None:
    if case.first is not None:
        put(tmp_path, case.first)
    seen, waits = watched(tmp_path, within_s=math.inf, meanwhile=case.then)
    assert (seen.renewed, seen.released, seen.long_enough) == (case.renewed, case.released, True)
    assert waits == (case.then is not nothing)


def test_one_that_is_not_renewed_is_watched_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    put(tmp_path, ELSEWHERE)
    began = time.monotonic()
    seen, _ = watched(tmp_path, within_s=math.inf)
    assert (seen.renewed, seen.released, seen.long_enough) == (False, False, True)
    assert LEASE_S <= seen.for_s <= time.monotonic() - began


@pytest.mark.parametrize("first", [LASTING, b"", b"{", b'{"host": 1}'])
def test_one_that_was_not_watched_for_so_long_or_cannot_be_read_tells_nothing(
    first: bytes | Lease, tmp_path: Path
) -> None:
    put(tmp_path, first)
    seen, waits = watched(tmp_path, within_s=-1.0)
    assert (seen.renewed, seen.released, seen.long_enough, waits) == (False, False, False, 0)
    began = time.monotonic()
    seen, waits = watched(tmp_path, within_s=0.1)
    assert (seen.renewed, seen.released, seen.long_enough) == (False, False, False)
    assert waits > 0
    assert 0.0 < seen.for_s <= time.monotonic() - began
