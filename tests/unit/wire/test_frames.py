"""Errors cross the wire whole, and two versions that cannot talk say whose turn it is to upgrade."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import BY_CODE, HpcserveError, VersionMismatch
from hpcserve.wire.frames import (
    ENCLOSED_BYTES,
    agree,
    decode_to_client,
    enclose,
    encode,
    error_from_wire,
    error_to_wire,
)
from hpcserve.wire.messages import WIRE_VERSIONS, ErrorInfo, Refused

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_comes_back_as_itself(code: str) -> None:
    error = BY_CODE[code]("what failed", retry_after_s=1.5, remote_traceback="Traceback …")
    refused = decode_to_client(encode(Refused(error_to_wire(error))))
    back = error_from_wire(refused.error)
    assert type(back) is type(error)
    assert (back.message, back.retry_after_s, back.remote_traceback) == ("what failed", 1.5, "Traceback …")
    assert str(back) == str(error)


@given(
    st.sampled_from(sorted(BY_CODE)),
    TEXT,
    st.none() | st.floats(0, 1e6),
    st.none() | TEXT,
)
def test_errors_keep_what_they_say(code: str, message: str, retry_after_s: float | None, text: str | None) -> None:
    back = error_from_wire(
        error_to_wire(BY_CODE[code](message, retry_after_s=retry_after_s, remote_traceback=text)),
    )
    assert (back.code, back.message, back.remote_traceback) == (code, message, text)
    if retry_after_s is None:
        assert back.retry_after_s is None
    else:
        assert back.retry_after_s == pytest.approx(retry_after_s, abs=0.001)
        assert back.retry_after_s is not None
        assert back.retry_after_s > 0


def test_an_error_of_a_later_version_is_a_plain_one() -> None:
    back = error_from_wire(ErrorInfo("quantum_decoherence", "collapsed", None, None))
    assert type(back) is HpcserveError
    assert back.message == "collapsed"


def test_agreement_on_our_best_common_version() -> None:
    best = WIRE_VERSIONS[0]
    assert agree((best,), "theirs 1", "ours 1") == best
    assert agree((best + 7, best, best - 1), "theirs 2", "ours 1") == best


@pytest.mark.parametrize(
    ("theirs", "to_upgrade"),
    [((max(WIRE_VERSIONS) + 1,), "ours 1.0"), ((0,), "theirs 9.9"), ((), "theirs 9.9")],
)
def test_disagreement_names_the_side_to_upgrade(theirs: tuple[int, ...], to_upgrade: str) -> None:
    with pytest.raises(VersionMismatch, match=f"upgrade {to_upgrade}$") as caught:
        agree(theirs, "theirs 9.9", "ours 1.0")
    for named in ("theirs 9.9", "ours 1.0", str(list(theirs)), str(list(WIRE_VERSIONS))):
        assert named in caught.value.message


@pytest.mark.parametrize(
    ("frames", "enclosed"),
    [
        ([], ()),
        ([b""], (b"",)),
        ([b"x" * ENCLOSED_BYTES], (b"x" * ENCLOSED_BYTES,)),
        ([b"x" * ENCLOSED_BYTES, b""], (b"x" * ENCLOSED_BYTES, b"")),
        ([b"x" * ENCLOSED_BYTES, b"y"], ()),
        ([memoryview(b"abc"), bytearray(b"de")], (b"abc", b"de")),
    ],
)
def test_small_tensors_are_enclosed(frames: list[bytes], enclosed: tuple[bytes, ...]) -> None:
    assert enclose(frames) == enclosed
