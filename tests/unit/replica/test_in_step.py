"""Rank 0's errors while the others wait for it: none that a request could be answered with."""

from __future__ import annotations

import pytest

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.replica.ranks import OutOfStep, in_step


@pytest.mark.parametrize("error", [MemoryError("no room"), ServableError("no room")])
def test_no_request_is_answered_with_what_leaves_the_others_waiting(error: Exception) -> None:
    with pytest.raises(OutOfStep, match="no room") as raised, in_step():
        raise error
    assert raised.value.__cause__ is error
    assert not isinstance(raised.value, HpcserveError | MemoryError)
