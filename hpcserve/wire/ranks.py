"""What the ranks of a replica say to each other, by MPI. Tensors follow these messages, or are scattered and gathered.

Rank 0 gives orders, each to all the others; they answer each :class:`Share`, :class:`Whole`, :class:`Next` and
:class:`Close` once. What is large they answer twice: first, before it comes, whether they have room for it; it comes
after :class:`Go`. All ranks run the same files, so there are no versions; what they say is msgpack all the
same, since nothing that comes from another process is unpickled.
"""

from __future__ import annotations

import msgspec

from hpcserve.wire.messages import EMPTY_MAP, DeviceUse, Message


class Piece(Message, frozen=True):
    """A tensor of a share. ``size_bytes``: of its frame, where the dtype is BYTES."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int = 0


class Begin(Message, frozen=True, tag="begin"):
    """What the agent told rank 0, but for the secret key; ``start`` is a :class:`~hpcserve.wire.launch.ReplicaStart`.

    The answer is :class:`Done` once the servable's ``setup`` is.
    """

    start: bytes


class Share(Message, frozen=True, tag="share"):
    """A share of a batch: each input is scattered, in this order. A share of no samples is not run, nor answered.

    ``reserve``: all answer first whether they have room; then comes :class:`Go`, or :class:`Drop` in place of it all.
    """

    method: str
    inputs: tuple[Piece, ...]
    parameters: msgspec.Raw = EMPTY_MAP
    reserve: bool = False


class Gather(Message, frozen=True, tag="gather"):
    """All shares went well: the outputs are gathered."""

    outputs: tuple[Piece, ...]


class Drop(Message, frozen=True, tag="drop"):
    """They did not, or not all have room: what there is of it is forgotten."""


class Whole(Message, frozen=True, tag="whole"):
    """A call in which all ranks take part; the inputs' frames, of so many bytes, are broadcast in this order.

    ``stream``: the number of the stream that it opens. ``reserve``: as of :class:`Share`.
    """

    method: str
    tensors: msgspec.Raw
    sizes: tuple[int, ...]
    parameters: msgspec.Raw = EMPTY_MAP
    stream: int | None = None
    reserve: bool = False


class Go(Message, frozen=True, tag="go"):
    """All have room: what was announced comes."""


class Next(Message, frozen=True, tag="next"):
    """The next item of a stream."""

    stream: int


class Close(Message, frozen=True, tag="close"):
    """The end of a stream, before its time or after it."""

    stream: int


class Renew(Message, frozen=True, tag="renew"):
    """A call has failed on all ranks: all make another communicator for the servable, together."""


class End(Message, frozen=True, tag="end"):
    """The replica ends in order."""


Order = Begin | Share | Gather | Drop | Go | Whole | Next | Close | Renew | End


class Done(Message, frozen=True, tag="done"):
    """It went well. ``outputs``: those of a share. ``is_over``: the stream has no more items.

    ``devices``: the GPUs that the rank sees; seldom, and empty otherwise.
    """

    outputs: tuple[Piece, ...] = ()
    is_over: bool = False
    devices: tuple[DeviceUse, ...] = ()


class Failure(Message, frozen=True, tag="failure"):
    """It did not; ``code`` finds the class of the error, and ``fault`` is what the servable itself said.

    ``sample``: the one that is at fault, within the share.
    """

    code: str
    message: str
    traceback: str | None = None
    fault: str = ""
    sample: int | None = None
    out_of_memory: bool = False


Answer = Done | Failure
