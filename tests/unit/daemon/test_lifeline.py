"""The lifeline: what is said does not end it, the other end's closing does."""

from __future__ import annotations

import asyncio
import os
import select

import pytest

from hpcserve.daemon.lifeline import Lifeline


def test_it_ends_when_the_other_end_closes() -> None:
    inside, outside = os.pipe()
    lifeline = Lifeline(inside)
    assert not lifeline.gone()
    os.write(outside, b"noise")
    assert not lifeline.gone()
    os.close(outside)
    assert select.select([lifeline], [], [], 5)[0]
    assert lifeline.gone()
    os.close(inside)


def test_it_can_be_awaited() -> None:
    inside, outside = os.pipe()

    async def wait() -> None:
        waiting = asyncio.create_task(Lifeline(inside).wait())
        os.write(outside, b"noise")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        os.close(outside)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(wait())
    os.close(inside)
