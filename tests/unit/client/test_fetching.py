"""Staged results where their files are seen: which paths of those that a service tells are opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from hpcserve.client.fetching import Fetching, Seen
from hpcserve.client.sending import Ask
from hpcserve.errors import HpcserveError, LoginRequired, StagedFileGone, TransferFailed
from hpcserve.staging import hdf5
from hpcserve.types import Counter, SessionId
from hpcserve.wire.messages import Result, Staged


def test_only_what_lies_below_the_directory_is_seen() -> None:
    seen = Seen("/site/staged/")
    assert seen.fetch(Staged("/site/staged/ada/./r.h5", 1, ())) == Path("/site/staged/ada/r.h5")
    for elsewhere in ("/site/staged", "/site/staged2/r.h5", "/home/ada/r.h5"):
        assert seen.fetch(Staged(elsewhere, 1, ())) is None
    for path in ("/site/staged/../../home/ada/r.h5", "/site/staged/ada/..", "r.h5"):
        with pytest.raises(TransferFailed, match="no path where a result could be"):
            seen.fetch(Staged(path, 1, ()))


@pytest.mark.parametrize(
    ("why", "expected"),
    [(LoginRequired("consent", detail={"scope": "s"}), "inline"), (StagedFileGone("removed"), "https")],
)
def test_where_https_has_failed_results_come_in_their_messages_again(why: HpcserveError, expected: str) -> None:
    """Not where it was only this one file; and there may be another connection, with more luck."""

    def ask(*_: object) -> object:
        raise why

    fetching = Fetching()
    fetching.ask = cast("Ask", ask)
    fetching.connected((), https_bytes=1000, transfers=True)
    assert fetching.replies == ("https", "auto")
    staged = Staged("/site/staged/ada/r.h5", 100, ())
    with pytest.raises(type(why)) as caught:
        fetching.outputs(Result(SessionId(b"s"), Counter(1), staged=staged), lazy=False)
    assert caught.value.detail == why.detail
    assert fetching.replies == (expected, "auto")
    fetching.connected((), https_bytes=1000, transfers=True)
    assert fetching.replies == ("https", "auto")


def test_what_comes_by_no_other_way_is_sent() -> None:
    fetching = Fetching()
    fetching.connected((), https_bytes=1000, transfers=True)
    small, large = (Staged("/site/staged/ada/r.h5", size, ()) for size in (1000, 1001))
    assert not fetching.is_sent(small, destination=True)
    assert fetching.is_sent(large, destination=True)
    assert not fetching.is_sent(large, destination=False)
    fetching.connected((), https_bytes=0, transfers=False)
    assert not fetching.is_sent(large, destination=True), "this service brings nothing anywhere"
    assert fetching.replies == ("inline", "inline")
    fetching.connected((Seen("/site/staged"),), https_bytes=1000, transfers=True)
    assert not fetching.is_sent(large, destination=True)
    assert fetching.replies == ("auto", "auto")


def test_a_pipe_in_place_of_a_result_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.h5")
    with pytest.raises(TransferFailed, match="no ordinary file"):
        hdf5.load(tmp_path / "r.h5", Staged(str(tmp_path / "r.h5"), 1, ()))
