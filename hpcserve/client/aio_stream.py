"""What a caller reads a stream by, in asyncio: apart from that for threads, as asyncio is slow to import."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Self

from hpcserve.client.outputs import Outputs
from hpcserve.client.streaming import Came, Streaming


class AsyncStream(AsyncIterator[Outputs]):
    """As :class:`hpcserve.client.stream.Stream`, for ``async for`` and ``async with``."""

    def __init__(self, call: Streaming, read: Callable[[Came], None], take_back: Callable[[], None]) -> None:
        self._call = call
        self._read = read
        self._take_back = take_back
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._news = asyncio.Event()
        call.on_done = partial(_has_news, self._news)  # which must not keep this stream from the collector

    async def __anext__(self) -> Outputs:
        call = self._call
        while not self._closed:
            item = call.take_first()
            if item is not None:
                self._read(item)
                return item.outputs()
            if call.is_over:
                self._closed = True
                call.outcome()
                break
            call.done = False
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Takes the request back, if it has not ended; what has come is dropped."""
        if not self._closed:
            self._closed = True
            self._take_back()
            self._call.came.clear()
            self._news.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._closed:  # the collector comes anywhere, in the midst of a send too
            with contextlib.suppress(RuntimeError):  # the loop is closed, and so is the client
                self._loop.call_soon_threadsafe(self._take_back)


def _has_news(news: asyncio.Event, _call: Streaming) -> None:
    news.set()
