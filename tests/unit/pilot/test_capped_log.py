"""A replica's log keeps its cap, its tail and its temper whatever is printed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.pilot.logs import CappedLog


def both(path: Path) -> bytes:
    older = path.with_name(path.name + ".1")
    return (older.read_bytes() if older.exists() else b"") + (path.read_bytes() if path.exists() else b"")


def test_what_fits_is_kept_whole_and_appended_to_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "r.log"
    first = CappedLog(path, 1000)
    assert not path.parent.exists()
    first.write(b"one\n")
    first.close()
    second = CappedLog(path, 1000)
    second.write(b"two\n")
    second.close()
    assert path.read_bytes() == b"one\ntwo\n"


@given(st.lists(st.binary(max_size=300), max_size=30), st.integers(min_value=2, max_value=400))
def test_never_more_than_the_limit_and_always_the_newest(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], limit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "r.log"
    log = CappedLog(path, limit)
    for chunk in chunks:
        log.write(chunk)
    log.close()
    kept = both(path)
    assert len(kept) <= limit
    assert b"".join(chunk[-(limit // 2) :] for chunk in chunks).endswith(kept)
    everything = b"".join(chunks)
    if len(everything) <= limit // 2:
        assert kept == everything


def test_a_full_disk_loses_bytes_says_how_many_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.log"
    path.symlink_to("/dev/full")
    log = CappedLog(path, 1000)
    log.write(b"lost\n")
    log.write(b"too\n")
    assert log.tail(5) == "lost\ntoo"
    log.close()
    path.unlink()
    log.write(b"kept\n")
    log.close()
    assert path.read_bytes() == b"\n[9 bytes of output lost: No space left on device]\nkept\n"


def test_a_log_that_somebody_removed_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.log"
    log = CappedLog(path, 10)
    log.write(b"12345")
    path.unlink()
    log.write(b"67890")
    log.close()
    assert path.read_bytes() == b"67890"


def test_the_tail_is_of_lines_and_survives_broken_text(tmp_path: Path) -> None:
    log = CappedLog(tmp_path / "r.log", 1 << 20)
    log.write(b"".join(b"line %d\n" % number for number in range(10_000)))
    log.write(b"last \xff line")
    log.close()
    assert log.tail(2) == "line 9999\nlast \ufffd line"
    assert len(log.tail(1 << 20)) <= 16 * 1024
