"""Threads for what services outside are asked: where these stall, nothing else of the controller waits for a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 16


class Outside:
    """Runs what blocks, so many at once."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="globus")

    async def do(self, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``do(*args, **kwargs)`` on one of these threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(do, *args, **kwargs))
