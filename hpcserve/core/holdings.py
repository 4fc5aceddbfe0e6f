"""The replica's half of the recovery protocol: what it was given, and what it must not lose.

Rules:

1. Work is taken only if its number is greater than every number seen or fenced in this epoch. What comes
   late or twice is dropped; the broker learns from the next INVENTORY that it is not held, and gives it anew.
2. A result is kept until the broker relays the client's acknowledgement (RELEASE).
3. While the kept results exceed the outbox's bytes, no more work is wanted and none is begun.

Decides no order of execution; the loop runs what it took first.
"""

from __future__ import annotations

from hpcserve.types import Epoch, RequestKey


class Holdings:
    """What one replica holds. ``body`` of a result is the loop's own."""

    def __init__(self, outbox_bytes: int) -> None:
        self.epoch = Epoch(0)
        self.fence = 0
        self.kept_bytes = 0
        self._outbox_bytes = outbox_bytes
        self._unfinished: dict[RequestKey, bool] = {}
        self._finished: dict[RequestKey, tuple[object, int]] = {}

    @property
    def is_full(self) -> bool:
        """Whether the outbox is full."""
        return self.kept_bytes >= self._outbox_bytes

    @property
    def unfinished(self) -> tuple[RequestKey, ...]:
        """What was taken and has no result yet."""
        return tuple(self._unfinished)

    @property
    def finished(self) -> tuple[RequestKey, ...]:
        """What has a result that is still kept."""
        return tuple(self._finished)

    def take(self, epoch: Epoch, seq: int, key: RequestKey) -> bool:
        """Whether this work is to be done; False: it came late, came twice, or is held already.

        What is held already, and was not wanted any more, is wanted again.
        """
        if epoch < self.epoch or (epoch == self.epoch and seq <= self.fence):
            return False
        self.epoch, self.fence = epoch, seq
        if self.want(key):
            return False
        self._unfinished[key] = True
        return True

    def census(self, epoch: Epoch, fence: int) -> None:
        """The broker asked what is held: nothing numbered up to ``fence`` will be taken any more."""
        if epoch > self.epoch:
            self.epoch, self.fence = epoch, fence
        elif epoch == self.epoch:
            self.fence = max(self.fence, fence)

    def want(self, key: RequestKey) -> bool:
        """Somebody waits for this request, perhaps again. False: it is not held, which an INVENTORY has to tell."""
        if key in self._unfinished:
            self._unfinished[key] = True
            return True
        return key in self._finished

    def is_wanted(self, key: RequestKey) -> bool:
        """Whether somebody still waits for this unfinished request."""
        return self._unfinished.get(key, False)

    def drop(self, key: RequestKey) -> None:
        """An unfinished request is given up before it was begun: nobody wants it, or somebody else is to run it."""
        del self._unfinished[key]

    def finish(self, key: RequestKey, body: object, size_bytes: int) -> None:
        """A result is there; it is kept until it is released."""
        del self._unfinished[key]
        self._finished[key] = (body, size_bytes)
        self.kept_bytes += size_bytes

    def release(self, key: RequestKey) -> None:
        """Nobody waits for this request: its result may go; if it has none yet, it is not wanted."""
        kept = self._finished.pop(key, None)
        if kept is not None:
            self.kept_bytes -= kept[1]
        elif key in self._unfinished:
            self._unfinished[key] = False

    def result(self, key: RequestKey) -> object | None:
        """The kept result of a request, or None."""
        kept = self._finished.get(key)
        return None if kept is None else kept[0]
