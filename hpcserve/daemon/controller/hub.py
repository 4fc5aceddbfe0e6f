"""The controller's line to the broker: an asyncio socket that comes back by itself when the broker does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from hpcserve.daemon.launch import hub_address
from hpcserve.errors import ProtocolError, ServiceUnavailable
from hpcserve.wire import hub
from hpcserve.wire.frames import decoder, encode
from hpcserve.wire.messages import Message

_log = logging.getLogger(__name__)

STATS_S = 2.0
TOKEN_S = 5.0


class HubLine:
    """Messages to and from the broker. Nothing is queued for a broker that is away: a new one is told all."""

    def __init__(self, runtime_dir: Path) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._socket.immediate = True
        self._socket.reconnect_ivl = 50
        self._socket.routing_id = b"controller"
        self._socket.probe_router = True
        self._socket.connect(hub_address(str(runtime_dir)))
        self._decode = decoder(hub.ToController)
        self._stats: dict[int, asyncio.Future[hub.Stats]] = {}
        self._tokens: dict[int, asyncio.Future[str]] = {}
        self._ticket = 0

    async def messages(self) -> AsyncIterator[Any]:
        """Everything that the broker says, but for the statistics and tokens that somebody waits for."""
        while True:
            frames = await self._socket.recv_multipart()
            try:
                message = self._decode(frames[0])
            except ProtocolError as error:
                _log.error("the broker sent what cannot be read: %s", error)
                continue
            if isinstance(message, hub.Stats):
                waiting = self._stats.pop(message.ticket, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            elif isinstance(message, hub.TokenIs):
                asking = self._tokens.pop(message.ticket, None)
                if asking is not None and not asking.done():
                    asking.set_result(message.token)
            else:
                yield message

    def tell(self, message: Message) -> None:
        """Sends a message; dropped when no broker is there."""
        sent = asyncio.ensure_future(self._socket.send(encode(message), zmq.NOBLOCK))
        failure = sent.exception()
        # Again: there is no broker; the next one is told everything when it is up.
        if failure is not None and not isinstance(failure, zmq.Again):
            raise failure

    async def stats(self) -> hub.Stats:
        """The broker's statistics of this moment.

        Raises:
            ServiceUnavailable: The broker does not answer.
        """
        self._ticket += 1
        waiting: asyncio.Future[hub.Stats] = asyncio.get_running_loop().create_future()
        self._stats[self._ticket] = waiting
        self.tell(hub.AskStats(self._ticket))
        try:
            # Not wait_for(): before Python 3.12 it swallows a cancellation that comes together with the answer.
            async with asyncio.timeout(STATS_S):
                return await waiting
        except TimeoutError as error:
            self._stats.pop(self._ticket, None)
            raise ServiceUnavailable("the broker does not answer; it is being restarted", retry_after_s=1.0) from error

    async def token(self, token_sha256: str) -> str:
        """The token of this SHA-256 by which somebody is in; empty: nobody is.

        Raises:
            ServiceUnavailable: Admission does not answer.
        """
        self._ticket += 1
        ticket = self._ticket
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tokens[ticket] = waiting
        self.tell(hub.AskToken(ticket, token_sha256))
        try:
            async with asyncio.timeout(TOKEN_S):
                return await waiting
        except TimeoutError as error:
            raise ServiceUnavailable("admission does not answer; it is being restarted", retry_after_s=1.0) from error
        finally:
            self._tokens.pop(ticket, None)

    def close(self) -> None:
        """Closes the line."""
        self._context.destroy(linger=0)
