"""One call on its way: what has to be sent, possibly again, and what came back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from hpcserve.client import arguments
from hpcserve.client.arguments import FOREVER, HALF_HEADER_BYTES, LONGEST_S
from hpcserve.client.outputs import Outputs
from hpcserve.core.tiers import AUTO, INLINE, STAGED
from hpcserve.errors import Cancelled, HpcserveError, InvalidInput, LoginRequired, TransferFailed
from hpcserve.wire import messages as wire
from hpcserve.wire.admin import Admin
from hpcserve.wire.frames import enclose, error_from_wire
from hpcserve.wire.reference import Reference
from hpcserve.wire.tensor import Frame, pack, unpack

if TYPE_CHECKING:
    from hpcserve.client.fetching import Fetching
    from hpcserve.client.sending import Sending, Transfer

T = TypeVar("T")

REPLIES = (AUTO, INLINE, STAGED)
Inputs = Any
"""What a caller may give: a mapping from names to arrays, or the only input itself."""


def references_in(named: Mapping[str, Any]) -> tuple[str, ...]:
    """The URIs of the inputs that lie in files, in their order."""
    return tuple(each.uri for each in named.values() if isinstance(each, Reference))


class Pending:
    """A call that has not been answered, or its answer.

    ``deadline`` is in monotonic seconds. ``on_done`` is called once, by the thread that read the answer, with
    no lock held. A thread that waits without reading makes an ``event``.
    """

    __slots__ = ("deadline", "done", "error", "event", "on_done", "value")

    def __init__(self, timeout_s: float | None, on_done: Callable[[Any], None] | None = None) -> None:
        if type(timeout_s) is not float or not 0.0 <= timeout_s < LONGEST_S:
            timeout_s = arguments.seconds(timeout_s)
        self.deadline = time.monotonic() + timeout_s
        self.done = False
        self.value: Any = None
        self.error: HpcserveError | None = None
        self.event: threading.Event | None = None
        self.on_done = on_done

    def outcome(self) -> Any:
        """The value; or the error is raised."""
        if self.error is not None:
            raise self.error
        return self.value

    def remaining_ms(self) -> int | None:
        """What is left until the deadline, rounded down but for the last millisecond; None: it is endless."""
        if self.deadline == FOREVER:
            return None
        left_s = self.deadline - time.monotonic()
        return max(1, int(left_s * 1000)) if left_s > 0 else 0


class Inference(Pending):
    """A call of a servable's method."""

    __slots__ = (
        "enclosed",
        "endpoint",
        "fetching",
        "frames",
        "large",
        "method",
        "parameters",
        "priority",
        "references",
        "refusal",
        "reply",
        "sending",
        "specs",
        "staged",
        "unfetched",
    )
    window: wire.Window | None = None

    def __init__(
        self,
        target: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
        priority: int,
        own: bool,
        reply: str = AUTO,
        sending: Sending | None = None,
        large: Sending | None = None,
        on_done: Callable[[Any], None] | None = None,
    ) -> None:
        """``own``: copy the inputs, because the caller may change them before the answer is there.

        ``reply``: how the result is to come, one of :data:`REPLIES`. ``sending``: it is brought to a collection.
        ``large``: so it is if it is too large for all other ways.

        Raises:
            InvalidInput: An argument is not what it may be; the message names it.
        """
        super().__init__(timeout_s, on_done)
        self.refusal: wire.ErrorInfo | None = None  # why it waits to be sent again
        self.endpoint, self.method = arguments.split(target) if type(target) is str else arguments.names_in(target)
        named = {"": inputs} if type(inputs) is np.ndarray else arguments.named(inputs)
        try:
            self.specs, packed = pack(named)
        except InvalidInput as error:
            raise arguments.not_sent(target, error) from error
        self.enclosed = enclose(packed)
        self.frames: Sequence[Frame] = packed if self.enclosed or not own else [bytes(frame) for frame in packed]
        self.parameters = arguments.NOTHING if parameters is None else arguments.encoded(parameters)
        if len(self.specs) + len(self.parameters) > HALF_HEADER_BYTES:
            raise arguments.too_long(self.parameters)
        self.reply = reply if reply == AUTO else arguments.one_of(reply, "reply", REPLIES)
        if sending is not None:
            if self.reply == INLINE:
                raise InvalidInput("reply='inline' and to=...: a result comes in its message or is brought; give one")
            self.reply = STAGED
        self.sending, self.large = sending, large
        self.references = () if type(inputs) is np.ndarray else references_in(named)
        self.fetching: Fetching | None = None
        self.staged: wire.Result | None = None
        self.unfetched: wire.Result | None = None
        self.priority = priority if type(priority) is int and not priority else arguments.whole_priority(priority)

    def finish(self, result: wire.Result, frames: Sequence[Frame]) -> None:
        """Takes the answer in."""
        try:
            if result.error is not None:
                self.error = error_from_wire(result.error)
            elif result.staged is not None:
                self.staged = result  # reading it takes long: see land()
                if self.sending is None and self.large is not None and self.fetching is not None:
                    self.sending = self.large if self.fetching.is_sent(result.staged, destination=True) else None
            else:
                self.value = Outputs(
                    unpack(result.tensors, frames, writable=True),
                    replica=result.replica,
                    version=result.version,
                    run_s=result.run_us / 1e6,
                    image=result.image,
                )
        except HpcserveError as error:
            self.error = error
        self.frames = self.enclosed = ()

    def land(self) -> None:
        """Brings here what is in a file, if the result is. It may take long: by no thread that others wait for."""
        result, self.staged = self.staged, None
        if result is not None:
            self.landed(result, brought(lambda: self.bring(result)))

    def bring(self, result: wire.Result, seen: Callable[[Transfer], None] | None = None) -> Outputs:
        """The outputs of a result that is in a file.

        Raises:
            HpcserveError: It cannot be had.
        """
        fetching = self.fetching
        assert fetching is not None, "a call that was sent"
        if self.sending is not None and fetching.ask is not None:
            return self.sending.send(result, fetching.ask, seen, consents=fetching.consents)
        return fetching.outputs(result, lazy=self.reply == STAGED)

    def landed(self, result: wire.Result, outcome: Outputs | HpcserveError) -> None:
        """What became of a result that was to come here."""
        if not isinstance(outcome, HpcserveError):
            self.value = outcome
            return
        self.error = outcome
        is_over = isinstance(outcome, (Cancelled, TransferFailed))
        if isinstance(outcome, LoginRequired) or (self.sending is not None and not is_over):
            self.unfetched = result

    def go_on(self, seen: Callable[[Transfer], None]) -> Outputs:
        """Brings a result after what it has waited for.

        Raises:
            HpcserveError: As :meth:`outcome`.
        """
        return self.bring(self.waiting(), seen)

    def waiting(self) -> wire.Result:
        """The result that waits for a login, or else is still to be brought.

        Raises:
            InvalidInput: None has.
        """
        if self.unfetched is None:
            raise InvalidInput("no result waits to be brought: there is nothing to go on with")
        return self.unfetched

    def outcome(self) -> Any:
        """The value; or the error is raised."""
        if self.staged is not None:
            self.land()
        return super().outcome()


def brought(bring: Callable[[], T]) -> T | HpcserveError:
    """What bringing a result here comes to."""
    try:
        return bring()
    except HpcserveError as error:
        return error
    except MemoryError as error:
        return TransferFailed(f"no memory for the result: {error}; call with reply='staged'")


class AdminCall(Pending):
    """An administrative call. Sent again after a reconnect: each verb may be carried out twice."""

    __slots__ = ("body", "kind", "verb")

    def __init__(
        self,
        verb: str,
        given: Admin,
        kind: type[Any],
        timeout_s: float | None,
        on_done: Callable[[Any], None] | None = None,
    ) -> None:
        """``given`` is the verb's struct, ``kind`` that of its answer.

        Raises:
            InvalidInput: An argument is not what it may be; the message names it.
        """
        super().__init__(timeout_s, on_done)
        self.verb = verb
        self.body = arguments.body(verb, given)
        self.kind = kind

    def finish(self, answer: wire.Answer) -> None:
        """Takes the answer in."""
        if answer.error is not None:
            self.error = error_from_wire(answer.error)
            return
        try:
            self.value = msgspec.msgpack.decode(answer.body, type=self.kind)
        except msgspec.MsgspecError as error:
            self.error = HpcserveError(
                f"{self.verb}: cannot read the daemon's answer: {error}; are both sides up to date?"
            )
