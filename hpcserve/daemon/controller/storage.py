"""The store on a thread of its own, so that a slow disk delays nothing else (design §8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from hpcserve.registry.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class Storage:
    """Runs the store's methods one after the other on one thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._store: Store | None = None

    async def open(self, place: Path) -> None:
        """Opens the store.

        Raises:
            HpcserveError: As :class:`Store`.
        """
        self._store = await asyncio.get_running_loop().run_in_executor(self._thread, Store, place)

    async def do(self, method: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``method(store, *args, **kwargs)`` on the store's thread."""
        store = self._store
        assert store is not None, "opened first"
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: method(store, *args, **kwargs))

    async def close(self) -> None:
        """Closes the store, after what was asked before."""
        if self._store is not None:
            await self.do(Store.close)
        self._thread.shutdown()
