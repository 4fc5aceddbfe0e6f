"""What a caller reads a stream by: :class:`Stream` for threads, :class:`AsyncStream` for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Self

from hpcserve.client.outputs import Outputs
from hpcserve.client.streaming import Came, Streaming
from hpcserve.types import Counter

if TYPE_CHECKING:
    from hpcserve.client.shared import SharedEngine


class Stream(Iterator[Outputs]):
    """The items of a stream, in order. Closing it ends its producer; so does ``with``, and dropping it.

    An error comes after the items before it.
    """

    def __init__(self, shared: SharedEngine, id: Counter, call: Streaming) -> None:
        self._shared = shared
        self._id = id
        self._call = call
        self._turn = threading.Lock()
        self._closed = False

    def __next__(self) -> Outputs:
        call = self._call
        with self._turn:
            while not self._closed:
                item = _first(call)
                if item is not None:
                    self._shared.read(self._id, call, item)
                    return item.outputs()
                if self._closed:
                    break
                if call.is_over:
                    self._closed = True
                    call.outcome()  # which raises the error that it ended with
                    break
                self._shared.rearm(call)
                self._shared.wait(call, None)
        raise StopIteration

    def close(self) -> None:
        """Takes the request back, if it has not ended; what has come is dropped."""
        self._closed = True
        self._shared.cancel(self._id)
        self._call.came.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            self._shared.abandon(self._id)


class AsyncStream(AsyncIterator[Outputs]):
    """As :class:`Stream`, for ``async for`` and ``async with``."""

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
            item = _first(call)
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


def _first(call: Streaming) -> Came | None:
    """Takes what has come first. It may be gone between a look and that: another thread closes the stream."""
    try:
        return call.came.popleft()
    except IndexError:
        return None


def _has_news(news: asyncio.Event, _call: Streaming) -> None:
    news.set()
