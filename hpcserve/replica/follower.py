"""The ranks but the first: each does what rank 0 orders, says how it went, and sleeps meanwhile."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.replica.broken import check_device
from hpcserve.replica.buffers import Buffers
from hpcserve.replica.gauge import Gauge
from hpcserve.replica.mpi import World
from hpcserve.replica.portion import Array, Portion, room, row_bytes, run_share
from hpcserve.replica.told import failure_of
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.yields import Yields
from hpcserve.wire.dtype_names import BYTES
from hpcserve.wire.elements import decode_elements
from hpcserve.wire.frames import decoder, encode, from_raw
from hpcserve.wire.launch import ReplicaStart, decode_start
from hpcserve.wire.ranks import (
    Answer,
    Begin,
    Close,
    Done,
    Drop,
    End,
    Failure,
    Gather,
    Go,
    Next,
    Order,
    Piece,
    Renew,
    Share,
    Whole,
)
from hpcserve.wire.tensor import unpack

T = TypeVar("T")
_decode = decoder(Order)


def told_start(world: World, software: str) -> ReplicaStart | None:
    """What the agent has told rank 0; None where the group ends before it began."""
    order = _decode(world.hear())
    return decode_start(order.start, software) if isinstance(order, Begin) else None


class Follower:
    """One of these ranks, once its servable is set up.

    Args:
        loaded: Its own servable.
        world: All ranks.
        gauge: Reads the devices that it sees; now and then an answer tells of them.
    """

    def __init__(self, loaded: Loaded, world: World, gauge: Gauge) -> None:
        self._loaded = loaded
        self._world = world
        self._gauge = gauge
        self._buffers = Buffers()
        self._portion: Portion = {}
        self._streams: dict[int, Yields] = {}

    def serve(self) -> None:
        """Obeys until rank 0 ends the group."""
        while True:
            order = _decode(self._world.hear())
            if isinstance(order, End):
                return
            answer = self._obey(order)
            if isinstance(answer, Done) and self._gauge.is_due():
                answer = msgspec.structs.replace(answer, devices=self._gauge.read())
            if answer is not None:
                self._world.answer(encode(answer))

    def _obey(self, order: Order) -> Answer | None:
        if isinstance(order, Share):
            return self._compute(order)
        if isinstance(order, Gather):
            self._give(order)
        elif isinstance(order, Drop):
            self._portion = {}
        elif isinstance(order, Renew):
            self._world.renew()
        elif isinstance(order, Whole):
            return self._take_part(order)
        elif isinstance(order, Next):
            return _attempt(order, lambda: Done(is_over=self._streams[order.stream].next() is None))
        elif isinstance(order, Close):
            return _attempt(order, lambda: self._close(order.stream))
        return None

    # --- data-parallel --------------------------------------------------------------------------------

    def _compute(self, order: Share) -> Answer | None:
        rooms = self._reserved(order, lambda: [self._room(piece) for piece in order.inputs])
        if rooms is None:
            return None
        for piece, there in zip(order.inputs, rooms, strict=True):
            if isinstance(there, bytearray):
                self._world.receive_frame(there, 0)
            else:
                self._world.receive_share(there, row_bytes(piece))
        samples = order.inputs[0].shape[0]
        if not samples:
            return None
        try:
            inputs = {piece.name: _input(piece, there) for piece, there in zip(order.inputs, rooms, strict=True)}
        except MemoryError as error:
            return _no_memory(error)
        ran = run_share(self._loaded, order.method, inputs, from_raw(order.parameters, dict[str, Any]), samples)
        if isinstance(ran, HpcserveError):
            check_device(ran)
            return failure_of(ran)
        pieces, self._portion = ran
        return Done(pieces)

    def _room(self, piece: Piece) -> bytearray | Array:
        return bytearray(piece.size_bytes) if piece.dtype == BYTES else room(piece, self._buffers)

    def _reserved(self, order: Share | Whole, take: Callable[[], T]) -> T | None:
        """Takes the room for what comes; None where a rank has none, and it does not come."""
        if not order.reserve:
            return take()
        answer: Answer = Done()
        rooms = None
        try:
            rooms = take()
        except MemoryError as error:
            answer = _no_memory(error)
        self._world.answer(encode(answer))
        return rooms if isinstance(_decode(self._world.hear()), Go) else None

    def _give(self, order: Gather) -> None:
        portion, self._portion = self._portion, {}
        for piece in order.outputs:
            part = portion.get(piece.name)
            if isinstance(part, bytes):
                self._world.send_frame(part, 0)
            elif piece.dtype != BYTES:
                size_bytes = row_bytes(piece)
                self._world.send_share(np.empty(0, np.uint8) if part is None else part, size_bytes)

    # --- collective -----------------------------------------------------------------------------------

    def _take_part(self, order: Whole) -> Answer | None:
        frames = self._reserved(order, lambda: [self._buffers.take(size_bytes).data for size_bytes in order.sizes])
        if frames is None:
            return None
        for frame in frames:
            self._world.broadcast(frame)

        def call() -> None:
            inputs, parameters = unpack(order.tensors, frames), from_raw(order.parameters, dict[str, Any])
            if order.stream is None:
                self._loaded.take_part(order.method, inputs, parameters)
            else:
                self._streams[order.stream] = self._loaded.take_part_in_stream(order.method, inputs, parameters)

        return _attempt(order, call)

    def _close(self, number: int) -> None:
        items = self._streams.pop(number, None)
        if items is not None:
            items.close()


def _attempt(order: Whole | Next | Close, step: Callable[[], Done | None]) -> Answer:
    """Takes a step of a call; whatever goes wrong becomes the answer."""
    try:
        return step() or Done()
    except HpcserveError as error:
        check_device(error)
        sys.stderr.write(f"{type(order).__name__.lower()}: {error}\n")
        return failure_of(error)
    except MemoryError as error:
        return _no_memory(error)


def _input(piece: Piece, there: bytearray | Array) -> Array:
    """An input of a share, in the memory that it has come into."""
    if isinstance(there, bytearray):
        return decode_elements(piece.name, piece.shape, math.prod(piece.shape), there)
    return there


def _no_memory(error: MemoryError) -> Failure:
    failure = ServableError(f"out of memory: {error}")
    failure.__cause__ = error
    return failure_of(failure)
