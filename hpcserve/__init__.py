"""hpcserve serves machine-learning models from a supercomputer, through its batch scheduler.

The names below are the public Python API; they are imported on first use, so that a replica inside
somebody else's image loads only what it needs.
"""

from __future__ import annotations

import importlib

# Not that of typing, whose import is long enough for a Ctrl-C that the command line could not catch yet.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hpcserve.client import AsyncClient, Client, Outputs
    from hpcserve.errors import HpcserveError
    from hpcserve.servable import Batching, SampleError, Tensor, method
    from hpcserve.wire.reference import Reference

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Batching",
    "Client",
    "HpcserveError",
    "Outputs",
    "Reference",
    "SampleError",
    "Tensor",
    "__version__",
    "method",
]

_HOME = {
    "AsyncClient": "hpcserve.client",
    "Batching": "hpcserve.servable",
    "Client": "hpcserve.client",
    "HpcserveError": "hpcserve.errors",
    "Outputs": "hpcserve.client",
    "Reference": "hpcserve.wire.reference",
    "SampleError": "hpcserve.servable",
    "Tensor": "hpcserve.servable",
    "method": "hpcserve.servable",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hpcserve' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
