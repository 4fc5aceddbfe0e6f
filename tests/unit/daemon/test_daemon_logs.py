"""The logs of the daemon's processes, whose directory is removed or out of sight while they live."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from hpcserve.daemon.logs import log_path, open_log_or_none


def test_the_directory_is_made_again_where_it_was_removed(tmp_path: Path) -> None:
    path = log_path(tmp_path, "broker")
    descriptor = open_log_or_none(path)
    os.write(descriptor, b"here")
    os.close(descriptor)
    assert path.read_bytes() == b"here"
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("shared", ["removed", "s" * 300])
def test_where_it_cannot_be_what_is_written_goes_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: str
) -> None:
    with caplog.at_level(logging.WARNING):
        descriptor = open_log_or_none(log_path(tmp_path / shared, "broker"))
    os.write(descriptor, b"lost")
    os.close(descriptor)
    assert list(tmp_path.iterdir()) == [], "a shared_dir that is not mounted is not made"
    assert "nothing is written to" in caplog.text
