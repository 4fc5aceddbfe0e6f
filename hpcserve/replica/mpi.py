"""The ranks of a replica as MPI connects them: what is sent, scattered, broadcast, gathered. This imports mpi4py.

A rank that waits for another sleeps between looks, since MPI libraries themselves spin: a group that has nothing to do
must cost nothing. Only transfers that both sides have agreed on block within MPI.

Rows of any length are a datatype of their own, so that counts stay below 2³¹ where the bytes do not.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcserve.errors import ConfigError, ServableError
from hpcserve.replica.rank import RANK_VARIABLES, Rank
from hpcserve.wire.messages import DeviceUse

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
SHORTEST_S, LONGEST_S = 20e-6, 2e-3
PART = 8
"""Who has waited for a while sleeps this part of it before the next look: it comes that much later at most."""
CHUNK_BYTES = 1 << 30
MOST_ROWS = 64
ABORT_S = 5.0
FORWARD_S = 0.1
"""So long a launcher has to pass on what a rank wrote last: MPICH's drops the rest when it ends the group."""
_ORDER, _ANSWER, _FRAME = 1, 2, 3


class Nap:
    """Sleeps between looks that are short at first."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def take(self) -> None:
        """Sleeps once."""
        waited_s = time.monotonic() - self._since
        time.sleep(min(LONGEST_S, max(SHORTEST_S, waited_s / PART)))


class World:
    """All ranks of a replica, this one among them.

    Args:
        place: What the agent and the launcher have told of this one.

    Attributes:
        comm: The servable's own communicator, as of now.
        has_threads: Whether two threads may use MPI at a time.
        devices: What the others have last told rank 0 of the GPUs that they see, by rank.

    Raises:
        ServableError: There is no mpi4py, or no MPI library that it finds.
        ConfigError: MPI has started other ranks than the agent asked for.
    """

    def __init__(self, place: Rank) -> None:
        self._mpi = _mpi()
        whole = self._mpi.COMM_WORLD
        self.rank, self.size = whole.rank, whole.size
        _check(place, self.rank, self.size)
        self._own = whole.Dup()
        self.comm = whole.Dup()
        self.has_threads = self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE
        self.devices: dict[int, tuple[DeviceUse, ...]] = {}
        self._rows = Rows(self._mpi)

    # --- messages -------------------------------------------------------------------------------------

    def tell(self, message: bytes, rank: int) -> None:
        """Sends an order; it is rank 0 that does."""
        self._own.Send([message, self._mpi.BYTE], rank, _ORDER)

    def tell_all(self, message: bytes) -> None:
        """Sends an order to all other ranks."""
        for rank in range(1, self.size):
            self.tell(message, rank)

    def hear(self) -> bytes:
        """Sleeps until rank 0 has sent an order."""
        nap = Nap()
        status = self._mpi.Status()
        while not self._own.Iprobe(0, _ORDER, status):
            nap.take()
        return self._receive(status, _ORDER)

    def answer(self, message: bytes) -> None:
        """Sends rank 0 an answer."""
        self._own.Send([message, self._mpi.BYTE], 0, _ANSWER)

    def next_answer(self) -> tuple[int, bytes] | None:
        """The next answer and whose it is; None when there is none now."""
        status = self._mpi.Status()
        if not self._own.Iprobe(self._mpi.ANY_SOURCE, _ANSWER, status):
            return None
        return status.source, self._receive(status, _ANSWER)

    def _receive(self, status: Any, tag: int) -> bytes:
        message = bytearray(status.Get_count(self._mpi.BYTE))
        self._own.Recv([message, self._mpi.BYTE], status.source, tag)
        return bytes(message)

    def renew(self) -> None:
        """Gives the servable another communicator; all ranks do, at a time.

        The old one is never freed: MPICH (4.3) gives its number to a later one, which then receives what lies in it.
        """
        self.comm = self._own.Dup()

    # --- tensors --------------------------------------------------------------------------------------

    def send_frame(self, frame: bytes, rank: int) -> None:
        """Sends bytes to a rank that expects them."""
        view = memoryview(frame)
        for place in range(0, len(view), CHUNK_BYTES):
            self._own.Send([view[place : place + CHUNK_BYTES], self._mpi.BYTE], rank, _FRAME)

    def receive_frame(self, frame: bytearray, rank: int) -> None:
        """As many bytes from a rank that sends them now."""
        view = memoryview(frame)
        for place in range(0, len(view), CHUNK_BYTES):
            self._own.Recv([view[place : place + CHUNK_BYTES], self._mpi.BYTE], rank, _FRAME)

    def broadcast(self, frame: bytes | bytearray | memoryview) -> None:
        """Sends rank 0's bytes to all others; they give memory of as many."""
        view = memoryview(frame)
        for place in range(0, len(view), CHUNK_BYTES):
            self._own.Bcast([view[place : place + CHUNK_BYTES], self._mpi.BYTE], 0)

    def scatter(self, batch: Array, counts: Sequence[int], starts: Sequence[int]) -> None:
        """Sends each other rank its rows of rank 0's contiguous array; rank 0's stay where they are."""
        row = self._row(batch.nbytes // len(batch))
        if row is not None:
            self._own.Scatterv([as_bytes(batch), (counts, starts), row], self._mpi.IN_PLACE, 0)

    def receive_share(self, share: Array, row_bytes: int) -> None:
        """This rank's part of :meth:`scatter`: the rows come into ``share``."""
        row = self._row(row_bytes)
        if row is not None:
            self._own.Scatterv(None, [as_bytes(share), len(share), row], 0)

    def gather(self, whole: Array, counts: Sequence[int], starts: Sequence[int]) -> None:
        """Receives each other rank's rows into rank 0's contiguous array, which has its own already."""
        row = self._row(whole.nbytes // len(whole))
        if row is not None:
            self._own.Gatherv(self._mpi.IN_PLACE, [as_bytes(whole), (counts, starts), row], 0)

    def send_share(self, share: Array, row_bytes: int) -> None:
        """This rank's part of :meth:`gather`."""
        row = self._row(row_bytes)
        if row is not None:
            self._own.Gatherv([as_bytes(share), len(share), row], None, 0)

    def _row(self, size_bytes: int) -> Any:
        """The datatype of a row; None where there is nothing to send."""
        if not size_bytes:
            return None
        return self._rows.of(size_bytes)

    # --- the end --------------------------------------------------------------------------------------

    def abort(self, code: int) -> None:
        """Ends all ranks at once: each process of the group is gone afterwards, this one too."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Should another thread hold MPI's lock for ever.
        signal.setitimer(signal.ITIMER_REAL, ABORT_S)
        time.sleep(FORWARD_S)
        self._mpi.COMM_WORLD.Abort(code)


def alone() -> Any:
    """The communicator of a replica of one rank.

    Raises:
        ServableError: There is no mpi4py, or no MPI library that it finds.
    """
    return _mpi().COMM_SELF


def row_type(mpi: Any, size_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> Any:
    """A datatype of so many bytes, of chunks that each count below 2³¹."""
    chunks, rest = divmod(size_bytes, chunk_bytes)
    if not chunks:
        return mpi.BYTE.Create_contiguous(rest).Commit()
    chunk = mpi.BYTE.Create_contiguous(chunk_bytes)
    parts = [chunk, mpi.BYTE] if rest else [chunk]
    counts, places = [chunks, rest], [0, chunks * chunk_bytes]
    return mpi.Datatype.Create_struct(counts[: len(parts)], places[: len(parts)], parts).Commit()


class Rows:
    """The datatypes of rows of the lengths that were met last.

    Args:
        mpi: The module of that name.
    """

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._kept: dict[int, Any] = {}

    def of(self, size_bytes: int) -> Any:
        """That of a row of so many bytes."""
        row = self._kept.pop(size_bytes, None)
        if row is None:
            if len(self._kept) >= MOST_ROWS:
                self._kept.pop(next(iter(self._kept))).Free()
            row = row_type(self._mpi, size_bytes)
        self._kept[size_bytes] = row  # what was met last comes last
        return row


def as_bytes(array: Array) -> Bytes:
    """The bytes of a contiguous array: MPI knows fewer dtypes than numpy."""
    return array.reshape(-1).view(np.uint8)


def _mpi() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ServableError(
            f"MPI cannot be used: {error}; the servable's environment needs mpi4py and an MPI library of the site's "
            f"family: {sys.executable} -m pip install mpi4py 'mpich<5', or the site's own library"
        ) from error
    return MPI


def _check(place: Rank, rank: int, size: int) -> None:
    if size != place.size:
        of = f"{size} process" if size == 1 else f"{size} processes"
        raise ConfigError(
            f"MPI has made a group of {of} on {socket.gethostname()} where {place.size} were asked for: the launcher "
            "and the MPI library of the servable's environment do not understand each other; see pmi in [mpi] of the "
            "site file (srun --mpi=list tells what there is), and that the library is of the site's family"
        )
    if rank != place.rank:
        told = "none of " + ", ".join(RANK_VARIABLES) if place.rank is None else f"rank {place.rank}"
        raise ConfigError(
            f"MPI has made this process on {socket.gethostname()} rank {rank}, and the launcher's variables say "
            f"{told}: see pmi in [mpi] of the site file"
        )
