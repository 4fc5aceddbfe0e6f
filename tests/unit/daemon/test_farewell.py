"""What becomes of the pilots is written down while a daemon goes down, and forgotten when the next one begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.daemon import farewell
from hpcserve.daemon.farewell import FILE, Farewell
from hpcserve.errors import HpcserveError


@pytest.mark.parametrize("how", ["keep", "drain", "cancel"])
def test_what_was_written_is_read_until_it_is_cleared(tmp_path: Path, how: Farewell) -> None:
    assert farewell.read(tmp_path) is None
    farewell.write(tmp_path, how)
    assert farewell.read(tmp_path) == how
    farewell.clear(tmp_path)
    farewell.clear(tmp_path)
    assert farewell.read(tmp_path) is None


def test_what_nobody_wrote_is_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("burn")
    assert farewell.read(tmp_path) is None


def test_one_that_cannot_be_removed_is_told_since_it_would_drain_the_next_daemon(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(HpcserveError, match="cannot remove"):
        farewell.clear(tmp_path)
