"""Tasks of one kind, no more than so many at a time: whoever calls while there are more is refused, not queued."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Crowd:
    """Tasks of a group.

    Args:
        group: What the tasks belong to.
        most: How many may run.
    """

    def __init__(self, group: asyncio.TaskGroup, most: int) -> None:
        self._group = group
        self._most = most
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Runs ``work`` beside the others; False where there is no room for it."""
        if len(self._running) >= self._most:
            return False
        task = self._group.create_task(work())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True
