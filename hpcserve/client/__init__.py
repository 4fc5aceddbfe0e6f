"""The Python client: :class:`Client` for threads, :class:`AsyncClient` for asyncio."""

from hpcserve.client.aio import AsyncClient
from hpcserve.client.future import InferenceFuture
from hpcserve.client.outputs import Outputs
from hpcserve.client.sync import Client

__all__ = ["AsyncClient", "Client", "InferenceFuture", "Outputs"]
