"""Data-parallel ranks, seen from rank 0: a batch is scattered, each rank computes a share, the outputs are gathered.

Only batches are divided. Other methods, and batches of one sample, run on rank 0 alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hpcserve.core.shares import Failed, Outputs, Trouble, Unlike, Whole, shares, starts, verdict
from hpcserve.errors import HpcserveError, InvalidOutput
from hpcserve.replica.buffers import Buffers
from hpcserve.replica.mpi import World
from hpcserve.replica.portion import Array, Portion, room, run_share
from hpcserve.replica.ranks import RESERVE_BYTES, Answers, end, in_step, reserve
from hpcserve.replica.told import error_of, failure_of
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.manifest import MethodSpec
from hpcserve.servable.yields import Yields
from hpcserve.wire.dtype_names import BYTES
from hpcserve.wire.dtypes import native_name
from hpcserve.wire.elements import decode_elements, encode_elements
from hpcserve.wire.frames import encode, raw
from hpcserve.wire.ranks import Done, Drop, Failure, Gather, Piece, Share

Counts = tuple[int, ...]


class _Call(NamedTuple):
    """What each rank is told; each input: whole, or of BYTES the frame of each rank; and whether it is large."""

    orders: list[bytes]
    inputs: list[Array | list[bytes]]
    reserve: bool


class DataParallel:
    """Runs the methods of a servable on all ranks.

    Args:
        loaded: Rank 0's own servable.
        world: All ranks.
    """

    def __init__(self, loaded: Loaded, world: World) -> None:
        self._loaded = loaded
        self._world = world
        self._buffers = Buffers()

    @property
    def methods(self) -> dict[str, MethodSpec]:
        """What each method takes and gives."""
        return self._loaded.methods

    def run(self, method: str, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`hpcserve.servable.loaded.Loaded.run`; the outputs' memory is good until nobody looks at it."""
        spec = self._loaded.methods.get(method)
        batch = {name: np.ascontiguousarray(given) for name, given in inputs.items()} if _divides(spec) else {}
        samples = len(next(iter(batch.values()), ()))
        if samples < 2:
            return self._loaded.run(method, inputs, parameters)
        counts = shares(samples, self._world.size)
        call = self._prepared(method, batch, parameters, counts)
        mine = {name: given[: counts[0]] for name, given in batch.items()}
        with in_step():
            for rank in range(1, self._world.size):
                self._world.tell(call.orders[rank], rank)
        if call.reserve:
            reserve(self._world)
        with in_step():
            answers = self._scatter(call, counts)
            ran = run_share(self._loaded, method, mine, parameters, counts[0])
            answers.wait()
            told = [_told(ran), *(answers.told.get(rank) for rank in range(1, self._world.size))]
            found = verdict(counts, [_as_told(each) for each in told])
        if isinstance(ran, HpcserveError) or not isinstance(found, Whole):
            self._drop()
            raise _error(method, found, ran, told)
        return self._gather(found.outputs, told, ran[1], counts)

    def stream(self, method: str, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Yields:
        """As :meth:`hpcserve.servable.loaded.Loaded.stream`, on rank 0 alone."""
        return self._loaded.stream(method, inputs, parameters)

    def teardown(self) -> None:
        """Ends the group in order.

        Raises:
            ServableError: The servable's own ``teardown`` failed here.
        """
        end(self._world, self._loaded)

    def _prepared(
        self, method: str, batch: Mapping[str, Array], parameters: Mapping[str, Any], counts: Counts
    ) -> _Call:
        """All that takes memory, before anybody has heard of the call."""
        given = raw(parameters)
        parts = {name: _frames(name, array, counts) for name, array in batch.items() if array.dtype.kind == "O"}
        size_bytes = sum(sum(map(len, parts[name])) if name in parts else array.nbytes for name, array in batch.items())
        large, orders = size_bytes >= RESERVE_BYTES, []
        for rank, count in enumerate(counts):
            pieces = (
                Piece(name, BYTES, (count, *array.shape[1:]), len(parts[name][rank]))
                if name in parts
                else Piece(name, native_name(array.dtype) or "", (count, *array.shape[1:]))
                for name, array in batch.items()
            )
            orders.append(encode(Share(method, tuple(pieces), given, large)))
        return _Call(orders, [parts.get(name, array) for name, array in batch.items()], large)

    def _scatter(self, call: _Call, counts: Counts) -> Answers:
        places, others = starts(counts), range(1, self._world.size)
        for given in call.inputs:
            if isinstance(given, list):
                for rank in others:
                    self._world.send_frame(given[rank], rank)
            else:
                self._world.scatter(given, counts, places)
        return Answers(self._world, (rank for rank in others if counts[rank]))

    def _drop(self) -> None:
        with in_step():
            self._world.tell_all(encode(Drop()))

    def _gather(
        self, outputs: Outputs, told: Sequence[Done | Failure | None], mine: Portion, counts: Counts
    ) -> dict[str, Any]:
        pieces = tuple(Piece(*each) for each in outputs)
        shared = [
            [answer.outputs[index] for answer in told if isinstance(answer, Done)] for index in range(len(pieces))
        ]
        try:
            places, order = starts(counts), encode(Gather(pieces))
            rooms = [
                [bytearray(part.size_bytes) for part in parts[1:]]
                if piece.dtype == BYTES
                else room(piece, self._buffers)
                for piece, parts in zip(pieces, shared, strict=True)
            ]
        except MemoryError:
            self._drop()
            raise
        with in_step():
            self._world.tell_all(order)
            for piece, there in zip(pieces, rooms, strict=True):
                if isinstance(there, list):
                    for rank, frame in enumerate(there, start=1):  # those that have a share are the first
                        self._world.receive_frame(frame, rank)
                else:
                    there[: counts[0]] = mine[piece.name]
                    self._world.gather(there, counts, places)
        # The others have done their part: a lack of memory is this request's alone again.
        return {
            piece.name: _decoded(parts, [mine[piece.name], *there]) if isinstance(there, list) else there
            for piece, parts, there in zip(pieces, shared, rooms, strict=True)
        }


def _divides(spec: MethodSpec | None) -> bool:
    return spec is not None and spec.batchable


def _frames(name: str, array: Array, counts: Counts) -> list[bytes]:
    return [encode_elements(name, part) for part in np.split(array, starts(counts)[1:])]


def _decoded(parts: Sequence[Piece], frames: Sequence[Any]) -> Array:
    """The elements of an output of BYTES: those of all ranks that had a share."""
    pairs = zip(parts, frames, strict=True)
    return np.concatenate(
        [decode_elements(each.name, each.shape, math.prod(each.shape), frame) for each, frame in pairs]
    )


def _told(ran: tuple[tuple[Piece, ...], Portion] | HpcserveError) -> Done | Failure:
    return failure_of(ran) if isinstance(ran, HpcserveError) else Done(ran[0])


def _as_told(answer: Done | Failure | None) -> Outputs | Trouble | None:
    if answer is None:
        return None
    if isinstance(answer, Failure):
        return Trouble(answer.sample, answer.out_of_memory)
    return tuple((piece.name, piece.dtype, piece.shape) for piece in answer.outputs)


def _error(
    method: str, found: Whole | Failed | Unlike, ran: object, told: Sequence[Done | Failure | None]
) -> HpcserveError:
    if isinstance(found, Failed):
        failure = told[found.rank]
        if found.rank == 0 and isinstance(ran, HpcserveError) and found.sample == failure_of(ran).sample:
            return ran  # one that names a sample which rank 0 has not would convict another's
        assert isinstance(failure, Failure), "it is the one that has failed"
        return error_of(failure, found.rank, sample=found.sample)
    assert isinstance(found, Unlike), "otherwise all went well"
    one, other = (_words(told[rank]) for rank in (found.one, found.other))
    return InvalidOutput(
        f"method {method!r} returned {one} on rank {found.one} and {other} on rank {found.other}: of a data-parallel "
        "servable, what it returns for a sample must not depend on the others of its batch, but for its values"
    )


def _words(answer: Done | Failure | None) -> str:
    assert isinstance(answer, Done), "it has outputs"
    return ", ".join(
        f"{each.name}: {each.dtype}[{', '.join(('n', *map(str, each.shape[1:])))}]" for each in answer.outputs
    )
