"""Staged results where their files are seen: which paths of those that a service tells are opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcserve.client.fetching import Seen
from hpcserve.errors import TransferFailed
from hpcserve.staging import hdf5
from hpcserve.wire.messages import Staged


def test_only_what_lies_below_the_directory_is_seen() -> None:
    seen = Seen("/site/staged/")
    assert seen.fetch(Staged("/site/staged/ada/./r.h5", 1, ())) == Path("/site/staged/ada/r.h5")
    for elsewhere in ("/site/staged", "/site/staged2/r.h5", "/home/ada/r.h5"):
        assert seen.fetch(Staged(elsewhere, 1, ())) is None
    for path in ("/site/staged/../../home/ada/r.h5", "/site/staged/ada/..", "r.h5"):
        with pytest.raises(TransferFailed, match="no path where a result could be"):
            seen.fetch(Staged(path, 1, ()))


def test_a_pipe_in_place_of_a_result_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.h5")
    with pytest.raises(TransferFailed, match="no ordinary file"):
        hdf5.load(tmp_path / "r.h5", Staged(str(tmp_path / "r.h5"), 1, ()))
