"""The messages of clients, replicas and enrolment, as msgspec structs. ``docs/reference/wire.md`` is the same in prose.

Those of agents are in :mod:`hpcserve.wire.agents`, those that stay within the daemon in :mod:`hpcserve.wire.hub`.

A message is ``[header, tensor, tensor, …]``: the header is one of these structs as a msgpack *array*
``[kind, field, field, …]``; the tensors' bytes follow, a frame each. Arrays make later versions easy: a
receiver ignores elements past those that it knows, and a missing last element has its default.

A frame costs more than a few kilobytes do: small tensors travel inside the header, as ``enclosed``.

What is not looked into on the way stays :class:`msgspec.Raw`: the broker copies ``tensors`` and
``parameters`` from a request into the replica's work without decoding them.

Decides nothing; holds no socket.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hpcserve.types import Counter, Epoch, PilotId, SessionId

WIRE_VERSIONS = (1,)
"""The versions of the wire format that this program speaks, best first."""

EMPTY_MAP = msgspec.Raw(b"\x80")
EMPTY_LIST = msgspec.Raw(b"\x90")

Key = tuple[SessionId, Counter]


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of the wire's structs: a msgpack array whose first element is the kind."""


class ErrorInfo(Message, frozen=True):
    """An error of :mod:`hpcserve.errors` on its way; ``code`` finds the class, ``detail`` is for programs."""

    code: str
    message: str
    traceback: str | None = None
    retry_after_ms: int | None = None
    detail: dict[str, Any] | None = None


class TensorSpec(Message, frozen=True):
    """What the tensor frame at the same place holds.

    ``dtype`` is a name of :data:`hpcserve.wire.tensor.DTYPES`, ``BYTES`` or ``JSON``; ``shape`` has any
    number of axes, each of any length, zero included.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class StagedTensor(Message, frozen=True):
    """A tensor in a file: the data set at ``path`` in it, and the SHA-256, in hex, of its bytes in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    sha256: str


class Staged(Message, frozen=True):
    """A result that lies in an HDF5 file, ``path`` on the site, of ``size_bytes``."""

    path: str
    size_bytes: int
    tensors: tuple[StagedTensor, ...]


class Window(Message, frozen=True):
    """How much of a stream its reader is ready to hold: so many items, and so many bytes of them or one item."""

    items: int
    size_bytes: int


class Item(Message, frozen=True):
    """One item of a stream: what a plain method returns. Without ``enclosed`` its tensors' frames follow the header."""

    tensors: msgspec.Raw
    enclosed: tuple[bytes, ...] = ()


# --- anyone to admission, and back ------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """A client asks to be let in. Its CURVE key is the connection's own.

    ``token``: an access token of Globus for the service, where it wants one.
    """

    versions: tuple[int, ...]
    software: str
    token: str = ""


class Welcome(Message, frozen=True, tag="welcome"):
    """The client's key is now known to the broker; with ``expires_in_s`` for so long, until it says HELLO again."""

    version: int
    software: str
    identity: str
    expires_in_s: float | None = None


class Enrol(Message, frozen=True, tag="enrol"):
    """An agent asks to be let in, with the one-time secret of its pilot's incarnation."""

    versions: tuple[int, ...]
    software: str
    pilot: PilotId
    incarnation: str
    secret: str
    host: str


class Enrolled(Message, frozen=True, tag="enrolled"):
    """The agent's key is now known to the broker."""

    version: int
    software: str


class Refused(Message, frozen=True, tag="refused"):
    """The answer to a HELLO, an ENROL or a whole connection that is not let in."""

    error: ErrorInfo


# --- client to broker, and back -----------------------------------------------------------------------


class Resume(Message, frozen=True, tag="resume"):
    """The first message on every connection: who we are and what we still wait for.

    Every request below ``floor`` is settled for the client; ``outstanding`` lists those at or above it that
    are not. A session's first RESUME has ``floor`` 1 and no outstanding.
    """

    version: int
    nonce: bytes
    floor: int = 1
    outstanding: tuple[Counter, ...] = ()


class Resumed(Message, frozen=True, tag="resumed"):
    """The broker knows the session again. ``session_bytes`` is the byte budget of its unsettled requests.

    Up to ``https_bytes`` a staged result may be fetched by HTTPS; 0: none. ``transfers``: one may be brought to a
    collection.
    """

    version: int
    epoch: Epoch
    session: SessionId
    session_bytes: int
    https_bytes: int = 0
    transfers: bool = False


class Request(Message, frozen=True, tag="request"):
    """One call of a method; a frame follows for each tensor, or ``enclosed`` has their bytes.

    ``attempt`` is 0, or 1 when the broker asked for the request again. ``acks`` and ``floor`` acknowledge
    earlier results, as in :class:`Ack`. With a ``window`` it is the call of a stream.
    ``reply`` says how the result comes: ``inline``, ``staged`` (in a file on the site), ``auto``: staged when it is
    large, or ``https``: the same, but only up to ``https_bytes`` of :class:`Resumed`. ``references`` lists the URIs of
    the tensors that are not in the message but in files: those of dtype ``REFERENCE``, whose bytes are the URI.
    """

    id: Counter
    endpoint: str
    method: str
    tensors: msgspec.Raw
    parameters: msgspec.Raw = EMPTY_MAP
    remaining_ms: int | None = None
    priority: int = 0
    attempt: int = 0
    trace: bytes | None = None
    reply: str = "inline"
    floor: int = 1
    acks: tuple[Counter, ...] = ()
    enclosed: tuple[bytes, ...] = ()
    window: Window | None = None
    references: tuple[str, ...] = ()


class Ack(Message, frozen=True, tag="ack"):
    """Requests that are settled for the client: all below ``floor``, and those of ``acks``.

    To acknowledge a request that has no result yet is to cancel it.
    """

    floor: int
    acks: tuple[Counter, ...] = ()


class SendAgain(Message, frozen=True, tag="again"):
    """Requests that nobody holds any more: the client sends them once more, with ``attempt`` 1."""

    ids: tuple[Counter, ...]


class Result(Message, frozen=True, tag="result"):
    """The one answer to a request, from the replica through the broker to the client, unchanged.

    A frame follows for each tensor, or ``enclosed`` has their bytes.
    ``credit_*`` speak to the broker: how much unfinished work the replica wants to hold in all.
    ``items``: this is the end of a stream, and it had so many. ``image``: the sha256 of the container image that it was
    computed in, if it was in one. ``staged``: its tensors are in a file.
    """

    session: SessionId
    id: Counter
    tensors: msgspec.Raw = EMPTY_LIST
    error: ErrorInfo | None = None
    replica: str = ""
    version: str = ""
    run_us: int = 0
    credit_requests: int = 0
    credit_bytes: int = 0
    enclosed: tuple[bytes, ...] = ()
    items: int | None = None
    image: str = ""
    staged: Staged | None = None


class Items(Message, frozen=True, tag="items"):
    """Some items of a stream, from the replica through the broker to the client, unchanged.

    ``first`` is the number of the first of them, from 0; ``count`` how many :class:`Item` there are in ``items``. An
    item whose tensors follow in frames of their own is alone in its message. ``run_us``: how long they were computed.
    ``image``: as in a :class:`Result`.
    """

    session: SessionId
    id: Counter
    first: int
    count: int
    items: msgspec.Raw
    replica: str = ""
    version: str = ""
    run_us: int = 0
    image: str = ""


class More(Message, frozen=True, tag="more"):
    """The reader of a stream has taken all items below ``received``, so that as many more may come.

    ``again``: what was sent above that may have been lost, and is to be sent again.
    """

    id: Counter
    received: int
    again: bool = False


class Call(Message, frozen=True, tag="call"):
    """An administrative call: ``verb`` names a struct of :mod:`hpcserve.wire.admin`, ``body`` is it."""

    id: int
    verb: str
    body: msgspec.Raw = EMPTY_MAP


class Answer(Message, frozen=True, tag="answer"):
    """The answer to the :class:`Call` of the same id."""

    id: int
    error: ErrorInfo | None = None
    body: msgspec.Raw = EMPTY_MAP


class WhoAreYou(Message, frozen=True, tag="who"):
    """The broker does not know this connection: RESUME first."""


class Ping(Message, frozen=True, tag="ping"):
    """The broker finds out whether the connection is still there. No answer is wanted."""


class Bye(Message, frozen=True, tag="bye"):
    """The client ends its session; all its requests are settled."""


# --- broker to replica, and back ----------------------------------------------------------------------


class Inventory(Message, frozen=True, tag="inventory"):
    """All that a replica holds: the first message on a connection, and the answer to a CENSUS.

    No WORK numbered up to ``fence`` in ``epoch`` will be taken any more, unless it is listed here. ``unfinished``
    stands in the order in which it will run; ``remaining_ms`` goes with it: the time until each one's deadline,
    negative when it is over; and so does ``yielded``: how many items of each there are by now, 0 where it has none.
    """

    version: int
    epoch: Epoch
    fence: int
    unfinished: tuple[Key, ...]
    finished: tuple[Key, ...]
    credit_requests: int
    credit_bytes: int
    remaining_ms: tuple[int | None, ...] = ()
    yielded: tuple[int, ...] = ()


class Credit(Message, frozen=True, tag="credit"):
    """How much unfinished work the replica wants to hold in all; sent when it changes between results."""

    credit_requests: int
    credit_bytes: int


class BatchesRun(Message, frozen=True):
    """What a replica has learned of the batches of one method and one kind of inputs.

    ``inputs``: their dtypes and shapes, in words. ``limit``: most samples of the next batch; ``mean``: samples of the
    last ones, on average; ``batches``: how many there were. A batch of n samples takes about
    ``fixed_us + n * per_sample_us``.
    """

    method: str
    inputs: str
    limit: int
    mean: float
    batches: int
    fixed_us: float
    per_sample_us: float


class Learned(Message, frozen=True, tag="learned"):
    """What a replica has learned of its batches; at most once a second, and only when it ran some.

    Of many kinds those that were met last.
    """

    kinds: tuple[BatchesRun, ...]


class DeviceUse(Message, frozen=True):
    """A GPU that a replica sees. ``id`` is its UUID; ``busy_percent``: of the last second or less; None: not known."""

    name: str
    id: str
    used_bytes: int
    total_bytes: int
    busy_percent: int | None = None


class Devices(Message, frozen=True, tag="devices"):
    """The GPUs of a replica: when it is connected, and when one is used otherwise than it was, every ten seconds."""

    devices: tuple[DeviceUse, ...]


class Fits(Message, frozen=True):
    """There is memory for so many samples of one method and one kind of inputs in a batch, and not for twice as many.

    ``inputs``: name, dtype and axes of each, without the first axis, by name; of a padded axis the octave of its
    length, as a negative number. ``version``: of the servable.
    """

    version: str
    method: str
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    samples: int


class OutOfMemory(Message, frozen=True, tag="out-of-memory"):
    """A batch had no memory, and the ranks of the replica are lost for it: those that come after it are to know."""

    fits: Fits


class Tune(Message, frozen=True, tag="tune"):
    """What the deployment wants of batches: a request's time at the replica, and most samples of one; nil: no wish.

    With ``kill_cancelled_s`` the replica says what it runs: it is killed when nobody has waited so long for that.
    ``fits``: what replicas that were lost for it have found.
    """

    objective_ms: float | None = None
    max_batch_size: int | None = None
    kill_cancelled_s: float | None = None
    fits: tuple[Fits, ...] = ()


class Runs(Message, frozen=True, tag="runs"):
    """The requests that the replica computes from now on, until their results."""

    keys: tuple[Key, ...]


class Census(Message, frozen=True, tag="census"):
    """The broker asks for an INVENTORY. The replica takes no WORK numbered up to ``fence`` from now on."""

    epoch: Epoch
    fence: int


class Work(Message, frozen=True, tag="work"):
    """One request for a replica; a frame follows for each tensor, or ``enclosed`` has their bytes.

    ``seq`` grows by one within an epoch.

    ``releases`` lists results that were acknowledged, as :class:`Release` does. ``stage`` is the directory for a staged
    result, ``read_below`` the directories that references may lead into: both as the caller is allowed.
    ``references``: where the tensors of dtype ``REFERENCE`` are on the site, in their order: ``PATH#DATASET``, quoted
    as in a URI. What the tensors themselves say of it is not looked at.
    """

    epoch: Epoch
    seq: int
    session: SessionId
    id: Counter
    method: str
    tensors: msgspec.Raw
    parameters: msgspec.Raw = EMPTY_MAP
    remaining_ms: int | None = None
    priority: int = 0
    attempt: int = 0
    trace: bytes | None = None
    reply: str = "inline"
    releases: tuple[Key, ...] = ()
    enclosed: tuple[bytes, ...] = ()
    window: Window | None = None
    stage: str = ""
    read_below: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


class Release(Message, frozen=True, tag="release"):
    """Results that the replica need not keep, and unfinished requests that nobody waits for."""

    keys: tuple[Key, ...]


class GiveBack(Message, frozen=True, tag="give-back"):
    """The replica is to give back up to ``most`` requests of this epoch that it has not begun, the last first.

    What it gives back its INVENTORY tells, which is the answer: it is not in it.
    """

    epoch: Epoch
    most: int


class Fetch(Message, frozen=True, tag="fetch"):
    """Results that the replica sends once more, as soon as they are there."""

    keys: tuple[Key, ...]


class MoreFor(Message, frozen=True, tag="more-for"):
    """A :class:`More`, for the replica that holds the stream."""

    session: SessionId
    id: Counter
    received: int
    again: bool = False


FromAnyone = Hello | Enrol
FromAdmission = Welcome | Enrolled | Refused
FromClient = Request | Ack | More | Resume | Call | Bye
ToClient = Result | Items | Resumed | SendAgain | Answer | Ping | WhoAreYou | Refused
ToReplica = Work | Census | Release | GiveBack | Fetch | MoreFor | Tune | WhoAreYou | Refused
