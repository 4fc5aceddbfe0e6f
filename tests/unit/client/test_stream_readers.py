"""What reads a stream: several readers of one, and a reader while another thread closes it."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from hpcserve.client.aio_stream import AsyncStream
from hpcserve.client.shared import SharedEngine
from hpcserve.client.stream import Stream
from hpcserve.client.streaming import Came, Streaming
from hpcserve.types import Counter, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import raw
from hpcserve.wire.messages import EMPTY_LIST


def streaming() -> Streaming:
    return Streaming("echo", {}, parameters=None, timeout_s=5.0, priority=0, window=4)


def came(n: int) -> Came:
    message = wire.Items(SessionId(b"s"), Counter(1), n, 1, raw([]), f"r-{n}", "1", 0)
    return Came(EMPTY_LIST, (), 1, message)


def tell(call: Streaming) -> None:
    """As the engine does when there is something to read."""
    if not call.done:
        call.done = True
        if call.on_done is not None:
            call.on_done(call)


def test_two_readers_of_one_async_stream_share_its_items_and_both_come_to_its_end() -> None:
    async def body() -> None:
        call = streaming()
        items = AsyncStream(call, lambda _: None, lambda: None)
        found: list[str] = []

        async def read() -> None:
            found.extend([item.replica async for item in items])

        readers = [asyncio.create_task(read()) for _ in range(3)]
        for n in range(4):
            await asyncio.sleep(0)
            call.came.append(came(n))
            tell(call)
        await asyncio.sleep(0)
        call.has_ended = True
        tell(call)
        await asyncio.wait_for(asyncio.gather(*readers), 10)
        assert sorted(found) == [f"r-{n}" for n in range(4)]

    asyncio.run(body())


def test_closing_an_async_stream_ends_those_who_read_it() -> None:
    async def body() -> None:
        items = AsyncStream(streaming(), lambda _: None, lambda: None)
        readers = [asyncio.create_task(anext(items, None)) for _ in range(2)]
        await asyncio.sleep(0)
        await items.aclose()
        assert await asyncio.wait_for(asyncio.gather(*readers), 10) == [None, None]

    asyncio.run(body())


class ClosedMeanwhile(deque[Came]):
    """Whoever looks whether something has come is overtaken by one who closes the stream."""

    stream: Stream

    def __len__(self) -> int:
        count = super().__len__()
        self.stream.close()
        return count

    def popleft(self) -> Came:
        self.stream.close()
        return super().popleft()


def test_a_stream_may_be_closed_while_another_thread_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, call = SharedEngine(), streaming()
    monkeypatch.setattr(shared, "_look_for_reader", lambda: None)  # there is no connection here
    items = Stream(shared, shared.open(call), call)
    call.came = ClosedMeanwhile([came(0)])
    call.came.stream = items
    assert list(items) == []
    shared.close()
    shared.release()


class EndsMeanwhile(deque[Came]):
    """Whoever finds nothing is overtaken by the last item and the end."""

    call: Streaming

    def popleft(self) -> Came:
        try:
            return super().popleft()
        except IndexError:
            if not self.call.has_ended:
                self.append(came(0))
                self.call.has_ended = True
                tell(self.call)
            raise


def test_items_that_come_with_the_end_while_a_reader_looks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, call = SharedEngine(), streaming()
    monkeypatch.setattr(shared, "_look_for_reader", lambda: None)  # there is no connection here
    items = Stream(shared, shared.open(call), call)
    call.came = EndsMeanwhile()
    call.came.call = call
    assert [item.replica for item in items] == ["r-0"]
    shared.close()
    shared.release()
