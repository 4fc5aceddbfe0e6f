"""What a replica says to the broker: results, what it holds and wants, what it runs, what its batches teach."""

from __future__ import annotations

from collections.abc import Sequence

from hpcserve.core.batching import UNBATCHED, Group, Sizes, half
from hpcserve.core.credit import INBOX_BYTES, Credit
from hpcserve.core.holdings import Holdings
from hpcserve.replica.joint import in_words
from hpcserve.replica.link import Link
from hpcserve.replica.outcome import Outcome
from hpcserve.replica.streams import Streams
from hpcserve.replica.task import Task
from hpcserve.types import RequestKey
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import encode
from hpcserve.wire.messages import WIRE_VERSIONS

MOST_TOLD = 16


class Says:
    """The words of one replica.

    Args:
        link: By which they leave.
        holdings: What the replica keeps.
        credit: How much it wants to hold.
        streams: Those that it runs.
        replica: The replica's id.
        version: Its servable's.
        image: The sha256 of its container image, or empty.
    """

    def __init__(
        self,
        link: Link,
        holdings: Holdings,
        credit: Credit,
        streams: Streams,
        *,
        replica: str,
        version: str,
        image: str,
    ) -> None:
        self.has_news = False
        """Whether a batch has run since :meth:`learned` told what they teach."""
        self.is_full = False
        """Whether the broker was told that there is no room."""
        self.says_runs = False
        """Whether the broker wants to hear what runs: this replica may be killed when nobody waits for that."""
        self._said_runs: tuple[RequestKey, ...] = ()
        self._devices: tuple[wire.DeviceUse, ...] = ()
        self._link = link
        self._holdings = holdings
        self._credit = credit
        self._streams = streams
        self._replica = replica
        self._version = version
        self._image = image

    def result(self, key: RequestKey, outcome: Outcome, run_us: int) -> None:
        """How a request ended."""
        requests, size_bytes = self._offer()
        header = wire.Result(
            key[0],
            key[1],
            outcome.tensors,
            outcome.error,
            self._replica,
            self._version,
            run_us,
            requests,
            size_bytes,
            outcome.enclosed,
            outcome.items,
            self._image,
            outcome.staged,
        )
        self._link.send(encode(header), () if outcome.enclosed else outcome.frames)

    def credit(self) -> None:
        """More, or less, is wanted than before."""
        self._link.send(encode(wire.Credit(*self._offer())))

    def _offer(self) -> tuple[int, int]:
        """The credit: unfinished requests and bytes that this replica wants to hold in all."""
        self.is_full = self._holdings.is_full
        if self.is_full:
            return 0, 0
        streams = self._streams  # one that waits for its reader is no work
        return self._credit.requests() + streams.opened, INBOX_BYTES + streams.input_bytes

    def inventory(self, remaining_ms: tuple[int | None, ...], running: Sequence[Task]) -> None:
        """All that is held; ``remaining_ms``: what is left to each unfinished request; ``running``: what runs now."""
        holdings = self._holdings
        requests, size_bytes = self._offer()
        said = wire.Inventory(
            WIRE_VERSIONS[0],
            holdings.epoch,
            holdings.fence,
            holdings.unfinished,
            holdings.finished,
            requests,
            size_bytes,
            remaining_ms,
            self._streams.yielded(holdings.unfinished),
        )
        self._link.send(encode(said))
        self._said_runs = ()
        self.runs(running)
        if self._devices:
            self._link.send(encode(wire.Devices(self._devices)))

    def runs(self, tasks: Sequence[Task]) -> None:
        """These requests run now."""
        if self.says_runs:
            keys = tuple(task.key for task in tasks)
            if keys != self._said_runs:  # a stream has many turns
                self._said_runs = keys
                self._link.send(encode(wire.Runs(keys)))

    def devices(self, devices: tuple[wire.DeviceUse, ...]) -> None:
        """How the devices are used now. Who comes to know this replica anew is told with the inventory."""
        if devices != self._devices:
            self._devices = devices
            self._link.send(encode(wire.Devices(devices)))

    def out_of_memory(self, group: Group, samples: int) -> None:
        """The ranks are lost for a batch of so many samples: that is not to happen to the next replica."""
        assert group is not UNBATCHED, "it was a batch"
        method, key, _ = group
        assert isinstance(key, tuple), "it was made by key_of"
        self._link.send(encode(wire.OutOfMemory(wire.Fits(self._version, method, key, half(samples)))))

    def learned(self, sizes: Sizes) -> None:
        """What the batches have taught, when there were some since it was last told."""
        if not self.has_news:
            return
        self.has_news = False
        kinds = []
        for (method, key), size in list(sizes)[-MOST_TOLD:]:
            line = size.model.line
            if line is not None:
                learned = size.limit, size.mean_samples, size.batches, line.fixed_s * 1e6, line.per_sample_s * 1e6
                kinds.append(wire.BatchesRun(method, in_words(key), *learned))
        self._link.send(encode(wire.Learned(tuple(kinds))))
