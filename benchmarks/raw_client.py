"""A session on the wire that sends what it is told and takes every answer as it comes: nothing is sent again.

The real client hides refusals by coming back. This one shows them, and costs a core little enough to overload a service
beside it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import zmq

from hpcserve.client.call import Inference
from hpcserve.client.dial import dial
from hpcserve.client.keys import client_keys
from hpcserve.client.login import Login
from hpcserve.client.services import find_service
from hpcserve.client.ways import way_to
from hpcserve.types import Counter
from hpcserve.wire import messages as wire
from hpcserve.wire.admin import Admin
from hpcserve.wire.frames import decode_to_client, encode, error_from_wire

PATIENCE_S = 30.0


class Answer(NamedTuple):
    """One request: when it was due and when its answer came, in seconds since the start; ``error`` is its code."""

    due_s: float
    answered_s: float
    error: str
    priority: int
    run_ms: float

    @property
    def latency_ms(self) -> float:
        """From when it was due: a sender that falls behind does not hide it."""
        return (self.answered_s - self.due_s) * 1000


class Stream(NamedTuple):
    """Requests of one kind that come at random times.

    Args:
        call: What is sent; its priority, and its time-out in seconds.
        rate: How many a second, on average, at so many seconds after the start.
        timeout_s: Each one's deadline.
    """

    call: Inference
    rate: Callable[[float], float]
    timeout_s: float


class RawClient:
    """One connection to the service of this home.

    Args:
        token: Of Globus, where the service wants one.
    """

    def __init__(self, token: str = "") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection = dial(
            self._context,
            way_to(find_service(None)),
            client_keys(),
            nonce=os.urandom(16),
            waits_for=lambda: (1, ()),
            login=Login(token=token),
        )
        self._next = 1
        self._acks: list[Counter] = []
        self._open: dict[int, tuple[float, int]] = {}

    def close(self) -> None:
        """Ends the session."""
        self._connection.socket.send(encode(wire.Bye()))
        self._connection.close(linger_ms=500)
        self._context.term()

    def open_loop(self, streams: list[Stream], seconds: float, seed: int = 1) -> list[Answer]:
        """Sends all streams for so many seconds; returns when all requests are answered."""
        dice = random.Random(seed)
        began = time.perf_counter()
        due = [dice.expovariate(each.rate(0.0)) for each in streams]
        found: list[Answer] = []
        while min(due) < seconds or self._open:
            now_s = time.perf_counter() - began
            if now_s > seconds + PATIENCE_S:
                raise TimeoutError(f"{len(self._open)} requests were not answered within {PATIENCE_S:g} s")
            for index, stream in enumerate(streams):
                while due[index] <= min(now_s, seconds):
                    self._send(stream, due[index])
                    due[index] += dice.expovariate(stream.rate(due[index]))
            while self._connection.has_message():
                self._take(began, found)
            pause_s = min(min(due) - (time.perf_counter() - began), 0.1)
            self._connection.poller.poll(max(0.0, pause_s) * 1000)
        return found

    def call(self, verb: str, body: Admin) -> None:
        """An administrative call; returns when it is done.

        Raises:
            HpcserveError: It was refused.
        """
        self._connection.socket.send(encode(wire.Call(self._next, verb, msgspec.Raw(msgspec.msgpack.encode(body)))))
        self._next += 1
        while True:
            self._connection.socket.poll(int(PATIENCE_S * 1000))
            answer = decode_to_client(self._connection.socket.recv_multipart()[0])
            if isinstance(answer, wire.Refused):
                raise error_from_wire(answer.error)
            if isinstance(answer, wire.Answer):
                if answer.error is not None:
                    raise error_from_wire(answer.error)
                return

    def loop(self, call: Inference, total: int, window: int) -> None:
        """So many requests, ``window`` outstanding; returns when all are answered.

        Raises:
            RuntimeError: Some were refused.
        """
        stream, found, sent = Stream(call, lambda now_s: 1.0, PATIENCE_S), list[Answer](), 0
        began = time.perf_counter()
        while len(found) < total:
            while sent < total and len(self._open) < window:
                self._send(stream, 0.0)
                sent += 1
            self._connection.socket.poll(int(PATIENCE_S * 1000))
            while self._connection.has_message():
                self._take(began, found)
        refused = [each.error for each in found if each.error]
        if refused:
            raise RuntimeError(f"{len(refused)} of {total} requests failed: {refused[0]}")

    def _send(self, stream: Stream, due_s: float) -> None:
        call, id = stream.call, Counter(self._next)
        self._next += 1
        self._open[id] = due_s, call.priority
        acks, self._acks = tuple(self._acks), []
        floor = next(iter(self._open))
        request = wire.Request(
            id,
            call.endpoint,
            call.method,
            call.specs,
            call.parameters,
            int(stream.timeout_s * 1000),
            call.priority,
            0,
            None,
            "inline",
            floor,
            tuple(ack for ack in acks if ack > floor),
            call.enclosed,
        )
        self._connection.socket.send(encode(request))

    def _take(self, began: float, found: list[Answer]) -> None:
        frames = self._connection.socket.recv_multipart()
        answer: Any = decode_to_client(frames[0])
        if type(answer) is not wire.Result:
            return
        due_s, priority = self._open.pop(answer.id)
        self._acks.append(answer.id)
        error = "" if answer.error is None else answer.error.code
        found.append(Answer(due_s, time.perf_counter() - began, error, priority, answer.run_us / 1000))
