"""An image from one node to others by MPI: one process reads it, the others get each piece while they write the last.

MPI's own broadcast is a tree, so the time hardly grows with the number of nodes. MPI is called by the main thread
alone; a second one reads, or writes. This is the one file of the host's side that imports mpi4py.
"""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from hpcserve.errors import HpcserveError, ManifestError

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

Group: TypeAlias = "Intracomm"
"""The processes that MPI connects."""

_AHEAD = 2  # pieces that wait for the slower of the two threads
_LENGTH = struct.Struct("<q")  # of the piece that follows; 0: the end; less: that much of a Failure


class Failure(msgspec.Struct, frozen=True):
    """Why the process that reads could not; ``refused``: the image is not the published one."""

    why: str
    refused: bool


def world(processes: int) -> Intracomm:
    """All the processes that were started together.

    Raises:
        HpcserveError: There is no MPI here, or it knows of another number of them.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise HpcserveError(f"no MPI on the node: {error}") from error
    size = MPI.COMM_WORLD.Get_size()
    if size != processes:
        raise HpcserveError(f"MPI started {size} process in each of {processes}, not one group of them")
    return MPI.COMM_WORLD


def first_of(comm: Intracomm, *, is_reader: bool) -> int:
    """The rank of the process that reads; 0 if none says that it does."""
    flags = _all_flags(comm, is_reader)
    return flags.index(1) if 1 in flags else 0


def anyone(comm: Intracomm, *, wants: bool) -> bool:
    """Whether one of the processes wants the image."""
    return 1 in _all_flags(comm, wants)


def takers(comm: Intracomm, *, reads: bool, wants: bool) -> Intracomm | None:
    """Those that want the image, behind the one that reads it; None for the others."""
    from mpi4py import MPI

    color = 0 if reads or wants else MPI.UNDEFINED
    made = comm.Split(color, 0 if reads else 1 + comm.Get_rank())
    return made if isinstance(made, MPI.Intracomm) and made != MPI.COMM_NULL else None


def send(comm: Intracomm, pieces: Iterable[bytes]) -> None:
    """Sends all pieces, each while a thread makes the next one.

    Args:
        comm: Of :func:`takers`.
        pieces: What is sent; they are made in another thread.

    Raises:
        HpcserveError: That could not be made; the others were told.
        OSError: So it was.
    """
    made: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)

    def make() -> None:
        try:
            for piece in pieces:
                made.put(piece)
            made.put(b"")
        except BaseException as error:  # noqa: BLE001 (the other thread raises it)
            made.put(error)

    threading.Thread(target=make, daemon=True).start()
    while True:
        piece = made.get()
        if isinstance(piece, BaseException):
            told = msgspec.json.encode(Failure(str(piece), isinstance(piece, ManifestError)))
            comm.Bcast(bytearray(_LENGTH.pack(-len(told))), 0)
            comm.Bcast(bytearray(told), 0)
            raise piece
        comm.Bcast(bytearray(_LENGTH.pack(len(piece))), 0)
        if not piece:
            return
        comm.Bcast([piece, len(piece), _byte()], 0)


def receive(comm: Intracomm, take: Callable[[bytearray], None]) -> None:
    """Gets all pieces; a thread takes each while the next one comes.

    Args:
        comm: Of :func:`takers`.
        take: Called with each of them, in another thread.

    Raises:
        HpcserveError: The process that reads could not.
        OSError: ``take`` raised it; the rest came nevertheless, since the others wait for it.
    """
    with _taking(take) as got:
        while True:
            header = bytearray(_LENGTH.size)
            comm.Bcast(header, 0)
            (length,) = _LENGTH.unpack(header)
            if not length:
                return
            piece = bytearray(abs(length))
            comm.Bcast(piece, 0)
            if length < 0:
                failure = msgspec.json.decode(piece, type=Failure)
                raise (ManifestError if failure.refused else HpcserveError)(failure.why)
            got.put(piece)


@contextmanager
def _taking(take: Callable[[bytearray], None]) -> Iterator[queue.Queue[bytearray | None]]:
    """A queue that a thread empties; at the end of the block it has, and what it raised is raised."""
    got: queue.Queue[bytearray | None] = queue.Queue(_AHEAD)
    raised: list[BaseException] = []

    def work() -> None:
        while (piece := got.get()) is not None:
            if not raised:
                try:
                    take(piece)
                except BaseException as error:  # noqa: BLE001 (the other thread raises it)
                    raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield got
    finally:
        got.put(None)
        thread.join()
    if raised:
        raise raised[0]


def _all_flags(comm: Intracomm, flag: bool) -> list[int]:  # noqa: FBT001 (it is the message)
    flags = bytearray(comm.Get_size())
    comm.Allgather(bytearray([flag]), flags)
    return list(flags)


def _byte() -> object:
    from mpi4py import MPI

    return MPI.BYTE
