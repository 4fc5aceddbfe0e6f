"""The Python client: :class:`Client` for threads, :class:`AsyncClient` for asyncio.

The names are imported on first use: to read which services there are takes neither zmq nor numpy, and threads need no
asyncio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcserve.client.aio import AsyncClient
    from hpcserve.client.future import InferenceFuture
    from hpcserve.client.outputs import Outputs
    from hpcserve.client.sync import Client

__all__ = ["AsyncClient", "Client", "InferenceFuture", "Outputs"]

_HOME = {
    "AsyncClient": "hpcserve.client.aio",
    "Client": "hpcserve.client.sync",
    "InferenceFuture": "hpcserve.client.future",
    "Outputs": "hpcserve.client.outputs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hpcserve.client' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
