"""What the broker sends to a replica: work into its inbox, and words about what it holds. Nothing is run here.

What is kept, and what is dropped, :mod:`hpcserve.core.holdings` decides.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from hpcserve.core.batching import UNBATCHED, Inbox, Sizes
from hpcserve.core.holdings import Holdings
from hpcserve.core.ledger import NEVER
from hpcserve.errors import ProtocolError
from hpcserve.replica.executor import Executor
from hpcserve.replica.link import Link, Tensor
from hpcserve.replica.outcome import Outcome
from hpcserve.replica.says import Says
from hpcserve.replica.streams import Streams
from hpcserve.replica.task import Task
from hpcserve.types import Epoch, RequestKey
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decode_to_replica

DRAIN = 256


class Intake:
    """Takes what has arrived.

    Args:
        link: Where it arrives.
        executor: Knows the methods.
        holdings: What the replica keeps.
        inbox: Where work waits.
        sizes: Of the batches; the broker tunes them.
        streams: Those that run; their readers take more.
        says: What is said in answer.
        version: The servable's.
        inventory: Has all told that is held.

    Attributes:
        most: So many messages are taken at a time, at most.
    """

    def __init__(
        self,
        link: Link,
        executor: Executor,
        *,
        holdings: Holdings,
        inbox: Inbox[Task],
        sizes: Sizes,
        streams: Streams,
        says: Says,
        version: str,
        inventory: Callable[[], None],
    ) -> None:
        self.most = 1
        self._link = link
        self._executor = executor
        self._holdings = holdings
        self._inbox = inbox
        self._sizes = sizes
        self._streams = streams
        self._says = says
        self._version = version
        self._send_inventory = inventory

    def drain(self, *, more: bool) -> None:
        """Takes one message, and twice as many each time while there are more: reading an empty socket is dear."""
        self.most = min(2 * self.most, DRAIN) if more else 1
        for taken in range(self.most):
            message = self._link.receive()
            if message is None:
                self.most = max(1, taken)
                return
            self._take(*message)
            if self._link.socket is None:
                return

    def _take(self, header: bytes, tensors: list[Tensor]) -> None:
        try:
            message = decode_to_replica(header)
        except ProtocolError as error:
            sys.stderr.write(f"the daemon sent what cannot be read: {error}\n")
            self._link.close()
            return
        if type(message) is wire.Work:
            self._take_work(message, tensors)
        elif type(message) is wire.Release:
            self._release(message.keys)
        elif type(message) is wire.MoreFor:
            self._streams.more((message.session, message.id), message.received, again=message.again)
        elif type(message) is wire.Fetch:
            self._fetch(message.keys)
        elif type(message) is wire.GiveBack:
            self._give_back(message.epoch, message.most)
        elif type(message) is wire.Census:
            self._holdings.census(message.epoch, message.fence)
            self._send_inventory()
        elif type(message) is wire.Tune:
            objective_s = None if message.objective_ms is None else message.objective_ms / 1000
            self._sizes.tune(objective_s, message.max_batch_size)
            fits = (each for each in message.fits if each.version == self._version)
            self._sizes.fit({(each.method, each.inputs): each.samples for each in fits})
            self._says.says_runs = message.kill_cancelled_s is not None
        elif type(message) is wire.WhoAreYou:
            self._send_inventory()
        elif type(message) is wire.Refused:
            sys.stderr.write(f"the daemon refused this replica: {message.error.message}\n")
            self._link.close()

    def _take_work(self, work: wire.Work, tensors: list[Tensor]) -> None:
        if work.releases:
            self._release(work.releases)
        key = (work.session, work.id)
        if self._holdings.take(work.epoch, work.seq, key):
            left = work.remaining_ms
            now = time.monotonic()
            deadline = NEVER if left is None else now + left / 1000
            method = self._executor.method(work.method)
            group, samples = self._executor.group(method, work.tensors, work.parameters)
            task = Task(key, work, method, work.enclosed or tensors, deadline, samples)
            if work.references or (work.window is not None and not self._executor.is_stream(method)):
                group = UNBATCHED  # it is not to share a batch: reading them, or opening it, will tell what is wrong
            self._inbox.push(task, group, samples=samples, priority=work.priority, deadline=deadline, now=now)

    def _release(self, keys: Sequence[RequestKey]) -> None:
        for key in keys:
            self._holdings.release(key)
        if self._streams.kept:
            self._streams.release(keys)
        if self._says.is_full and not self._holdings.is_full:
            self._says.credit()

    def _fetch(self, keys: Sequence[RequestKey]) -> None:
        all_held = True
        for key in keys:
            all_held &= self._holdings.want(key)
            result = self._holdings.result(key)
            if isinstance(result, Outcome):
                self._says.result(key, result, 0)
        if not all_held:
            self._send_inventory()

    def _give_back(self, epoch: Epoch, most: int) -> None:
        """Lets go of what has not begun. What an earlier broker gave is kept: to the present one it may have run."""
        for task in self._inbox.give_back(most, lambda task: task.work.epoch == epoch):
            self._holdings.drop(task.key)
        self._send_inventory()
