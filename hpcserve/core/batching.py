"""How many samples the next batch may have, and which requests it is made of.

Four rules, each for a reason:

- **No request waits for company** while its replica is free, unless the method has a ``max_wait_s``: what is there runs
  now. While it runs more arrive, and make the next batch larger. So batches grow with the load, by themselves.
- **A batch is no larger than is of use.** With an objective, it has ``SHARE`` of it: a request that has just missed a
  batch waits for that one and then for its own (``SHARE_OVERLAPPED``, where the next one is launched before that one
  has ended). Where a single sample takes about that long the objective cannot be met by small batches, and a long
  queue would only be served more slowly: a batch may always take ``AT_LEAST`` times what one sample takes. Without an
  objective it ends where another sample does not save anything any more: at ``1 - WORTH`` of the throughput of an
  endless batch.
- **What is quick runs alone.** To put requests together and to take them apart again costs each some tens of
  microseconds. A request that takes less than ``WORTH_JOINING_S`` alone gains nothing by company; from time to time
  one is run alone to find that out.
- **The line is not believed blindly** (:mod:`hpcserve.core.latency`). A batch has at most twice the samples of the
  largest one that is remembered; and what the line allows is multiplied by a factor that is kept by additive increase
  and multiplicative decrease (Chiu and Jain, 1989; Clipper, NSDI 2017): each full batch within its share adds
  ``INCREASE`` to it; each of more than half of the limit that took longer multiplies it by ``DECREASE``. But where
  requests are left over, smaller batches would make all of them wait longer still: then the factor does not fall below
  1, and comes back to it as fast as it fell. Without that a machine that stalls now and then would serve ever smaller
  batches to an ever longer queue. Where all batches had one request, and so one size, the line's slope is a mere
  guess: one of ``TRY_EVERY`` then takes in a second request.

What may share a batch, and how it is put together, is the replica's business: here requests have an opaque key.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from hpcserve.core.latency import LatencyModel

SHARE = 0.45
SHARE_OVERLAPPED = 0.4
WORTH = 0.05
INCREASE = 0.01
DECREASE = 0.9
LEAST_FACTOR, MOST_FACTOR = 0.05, 2.0
MOST_KINDS = 1024
RECENT = 32
SELDOM, SELDOM_ALONE, QUICK_S = 16, 512, 1e-3
AT_LEAST = 1.5
TRY_EVERY = 16
WORTH_JOINING_S = 5e-5
SLOWER = 1.25
UNBATCHED = None
"""The group of requests that always run alone."""

Group = tuple[str, Hashable, bytes] | None
"""What requests must have in common to share a batch: the method, its inputs' shapes, the parameters."""

T = TypeVar("T")


class Policy(NamedTuple):
    """What a deployment wants of the batches of one method.

    ``objective_s``: what a request may take at the replica, waiting included; None: no such wish. ``max_samples``: most
    samples of a batch; 1 turns batching off. ``max_wait_s``: how long a batch that is not full waits for more.
    ``preferred``: sizes that the model is fast at; a batch is cut to the largest of them that it fills. ``overlaps``:
    the next one is launched shortly before the one that runs ends, so a request that misses it waits somewhat longer.
    """

    objective_s: float | None = None
    max_samples: int = 256
    max_wait_s: float = 0.0
    preferred: tuple[int, ...] = ()
    overlaps: bool = False

    @property
    def share_s(self) -> float:
        """How much of the objective one batch may take."""
        share = SHARE_OVERLAPPED if self.overlaps else SHARE
        return math.inf if self.objective_s is None else share * self.objective_s


def half(samples: int) -> int:
    """How many samples a batch may have, after one of so many had no memory."""
    return max(1, samples // 2)


class BatchSize:
    """The largest batch of one method that is of use now."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.model = LatencyModel()
        self.factor = 1.0
        self.limit = 1
        self.most = policy.max_samples
        self._fits = math.inf  # so many samples there is memory for
        self._alone_s = math.inf  # so long a request takes alone, or less: one slow run is no proof
        self.batches = 0
        self.mean_samples = 0.0

    def ran(self, samples: int, took_s: float, *, full: bool, requests: int = 1) -> None:
        """A batch of so many samples, of so many requests, took so long; ``full``: it would have had more if it could.

        To learn from each quick one, where nothing waits or nothing is to be gained, would cost more than it took.
        """
        self.batches += 1
        if requests == 1:
            most_s = SLOWER * self._alone_s
            self._alone_s = min(most_s, took_s)
        elif (
            not self.batches % RECENT
            and took_s < 2 * WORTH_JOINING_S * requests
            and self._may_be_quick(samples, requests)
        ):
            self._alone_s, self.limit = math.inf, 1  # are they worth joining? The next is run alone, which will tell
            return
        seldom = SELDOM
        if self._alone_s < WORTH_JOINING_S:
            self.limit, full, seldom = 1, False, SELDOM_ALONE
        if not full and self.batches % seldom and took_s < QUICK_S and self.batches > SELDOM:
            return
        policy = self.policy
        self.mean_samples += (samples - self.mean_samples) / min(self.batches, RECENT)
        if self.model.ran(samples, took_s):
            self.factor = 1.0  # it corrected another line
        elif policy.objective_s is not None:
            self._correct(samples, took_s, policy.share_s, full=full)
        self.limit = self._limit()
        if full and requests == 1 and self.model.sizes == 1 and not self.batches % TRY_EVERY:
            self.limit = min(self.most, max(self.limit, 2 * samples))

    def _correct(self, samples: int, took_s: float, share_s: float, *, full: bool) -> None:
        """Additive increase, multiplicative decrease."""
        slow = took_s > self._allowed_s(share_s)
        if full:
            enough = min(1.0, self.factor / DECREASE)
            if slow:
                self.factor = max(enough, self.factor * DECREASE)
            elif took_s <= share_s:
                self.factor = min(MOST_FACTOR, max(enough, self.factor + INCREASE))
        elif slow and samples > max(1, self.limit // 2):  # one sample cannot be made fewer
            self.factor = max(LEAST_FACTOR, self.factor * DECREASE)

    def _may_be_quick(self, samples: int, requests: int) -> bool:
        """Whether the line does not rule out that one of these requests is quick alone."""
        line = self.model.line
        return line is None or line.seconds(samples / requests) < QUICK_S

    def tune(self, policy: Policy) -> None:
        """From now on the batches are to be like this."""
        if policy == self.policy:
            return
        self.policy = policy
        self.most = int(min(policy.max_samples, self._fits))
        self.factor = 1.0
        self.limit = 1 if self.model.line is None else self._limit()

    def out_of_memory(self, samples: int) -> None:
        """A batch of so many samples did not fit into memory: from now on it is half of that at most."""
        self.fit(half(samples))

    def fit(self, samples: int) -> None:
        """There is memory for so many samples at most."""
        self._fits = min(self._fits, samples)
        self.most = int(min(self.policy.max_samples, self._fits))
        self.limit = min(self.limit, self.most)

    def _allowed_s(self, share_s: float) -> float:
        """So long a batch may take: its share of the objective, or somewhat longer than one sample takes."""
        line = self.model.line
        return max(share_s, AT_LEAST * line.seconds(1)) if line is not None else share_s

    def _limit(self) -> int:
        if self._alone_s < WORTH_JOINING_S:
            return 1
        line = self.model.line
        assert line is not None, "a batch ran"
        if self.policy.objective_s is not None:
            useful = self.factor * line.samples(self._allowed_s(self.policy.share_s))
        elif line.per_sample_s > 0 and self.model.sizes > 1:
            useful = line.fixed_s / line.per_sample_s * (1 - WORTH) / WORTH
        else:
            useful = float(self.most)
        known = 2 * self.model.largest
        return max(1, int(min(useful, known, self.most)))


class Sizes:
    """The batch sizes of a replica's methods, each for every kind of request that is met.

    Args:
        policy_of: What the servable says of a method's batches.
    """

    def __init__(self, policy_of: Callable[[str], Policy]) -> None:
        self._policy_of = policy_of
        self._objective_s: float | None = None
        self._max_samples: int | None = None
        self._sizes: dict[tuple[str, Hashable], BatchSize] = {}
        self._fits: dict[tuple[str, Hashable], int] = {}
        self._last: tuple[Group, BatchSize] | None = None

    def __iter__(self) -> Iterator[tuple[tuple[str, Hashable], BatchSize]]:
        """The sizes, each with its method and the shapes of its inputs; what was met last comes last."""
        return iter(self._sizes.items())

    def tune(self, objective_s: float | None, max_samples: int | None) -> None:
        """What the deployment says of all batches."""
        self._objective_s, self._max_samples = objective_s, max_samples
        for (method, _), size in self._sizes.items():
            size.tune(self._policy(method))

    def fit(self, fits: Mapping[tuple[str, Hashable], int]) -> None:
        """For so many samples of each of these kinds there is memory, as others have found."""
        self._fits = dict(fits)
        for kind, samples in fits.items():
            if kind in self._sizes:
                self._sizes[kind].fit(samples)

    def _policy(self, method: str) -> Policy:
        policy = self._policy_of(method)
        most = policy.max_samples if self._max_samples is None else min(self._max_samples, policy.max_samples)
        return policy._replace(objective_s=self._objective_s, max_samples=most)

    def of(self, group: tuple[str, Hashable, bytes]) -> BatchSize:
        """The size for a group of requests: of one method and of equal shapes, whatever their parameters."""
        last = self._last
        if last is not None and last[0] is group:
            return last[1]
        kind = group[:2]
        size = self._sizes.pop(kind, None)
        if size is None:
            if len(self._sizes) >= MOST_KINDS:
                del self._sizes[next(iter(self._sizes))]  # that of which none was met for the longest time
            size = BatchSize(self._policy(group[0]))
            if kind in self._fits:
                size.fit(self._fits[kind])
        self._sizes[kind] = size
        self._last = group, size
        return size


Waiting = tuple[int, int, int, float, float, T, Group]
"""A request in the inbox, as it is ordered: minus its priority, its number; then samples, arrival, deadline, task and
group."""


_first = itemgetter(0)


def _turn(waiting: Waiting[Any]) -> tuple[int, int]:
    """What orders the requests of an inbox."""
    return waiting[:2]


class Inbox(Generic[T]):
    """What a replica was given and has not begun, by what may share a batch: by priority, then by arrival.

    The broker gives by deadline. Here that would let a request without one wait for ever.
    """

    def __init__(self) -> None:
        self._groups: dict[Group, list[Waiting[T]]] = {}
        self._place = 0
        self.count = 0
        """How many requests wait."""

    def __len__(self) -> int:
        return self.count

    def push(self, task: T, group: Group, *, samples: int, priority: int, deadline: float, now: float) -> None:
        """Adds a request that may share a batch with those of its group; it alone has group None."""
        self._place += 1
        self.count += 1
        item = (-priority, self._place, samples, now, deadline, task, group)
        waiting = self._groups.get(group)
        if waiting is None:
            self._groups[group] = [item]
        else:
            heapq.heappush(waiting, item)

    def next(self, sizes: Sizes, now: float) -> tuple[Group, float]:
        """The group that is to run next, and how many seconds from now: 0, unless all that is there waits for company.

        There is something. A group that waits does not hold up one that does not.
        """
        if len(self._groups) == 1:
            (group,) = self._groups
            return group, 0.0 if group is UNBATCHED else self._wait_s(group, sizes, now)
        # Requests with parameters of their own are groups of their own: there may be many, and seldom does one wait.
        group = min(map(_first, self._groups.values()))[6]
        wait_s = self._wait_s(group, sizes, now)
        if wait_s <= 0:
            return group, 0.0
        waits = [(wait_s, group)]
        for head in sorted(map(_first, self._groups.values()))[1:]:
            wait_s = self._wait_s(head[6], sizes, now)
            if wait_s <= 0:
                return head[6], 0.0
            waits.append((wait_s, head[6]))
        wait_s, group = min(waits, key=_first)
        return group, wait_s

    def _wait_s(self, group: Group, sizes: Sizes, now: float) -> float:
        """How long the batch of this group should wait for company; nobody waits for half of what is left to him."""
        if group is None:
            return 0.0
        size = sizes.of(group)
        most_s = size.policy.max_wait_s
        if most_s <= 0:
            return 0.0
        waiting = self._groups[group]
        if sum(each[2] for each in waiting) >= size.limit:
            return 0.0
        until = min(arrived + min(most_s, (deadline - arrived) / 2) for _, _, _, arrived, deadline, _, _ in waiting)
        return max(0.0, until - now)

    def fills(self, group: Group, samples: int) -> bool:
        """Whether the requests of a group that wait have so many samples together."""
        for each in self._groups.get(group, ()):
            samples -= each[2]
            if samples <= 0:
                return True
        return False

    def take(self, group: Group, limit: int, preferred: tuple[int, ...] = ()) -> tuple[list[T], bool]:
        """Takes out the requests of the group's next batch: one at least, with ``limit`` samples at most.

        Returns:
            The requests, and whether there would have been more without the limit.
        """
        waiting = self._groups[group]
        if len(waiting) == 1:
            del self._groups[group]
            self.count -= 1
            return [waiting[0][5]], False
        taken = [heapq.heappop(waiting)]
        samples = taken[0][2]
        while waiting and group is not None and samples + waiting[0][2] <= limit:
            samples += waiting[0][2]
            taken.append(heapq.heappop(waiting))
        full = bool(waiting)
        if preferred and full:  # what is cut off runs in a batch with the rest
            # A cut below half of the limit would keep the limit where it is, and larger preferred sizes out of reach.
            fits = max((size for size in preferred if limit < 2 * size and size <= samples), default=0)
            while fits and len(taken) > 1 and samples - taken[-1][2] >= fits:
                samples -= taken[-1][2]
                heapq.heappush(waiting, taken.pop())
        if not waiting:
            del self._groups[group]
        self.count -= len(taken)
        return [each[5] for each in taken], full

    def give_back(self, most: int, may: Callable[[T], bool]) -> list[T]:
        """Takes out up to so many requests that ``may`` be given back, those that would run last."""
        last = sorted((each for waiting in self._groups.values() for each in waiting), key=_turn, reverse=True)
        given = [each for each in last if may(each[5])][:most]
        places = {each[1] for each in given}
        for group, waiting in list(self._groups.items()):
            kept = [each for each in waiting if each[1] not in places]
            if kept:
                heapq.heapify(kept)
                self._groups[group] = kept
            else:
                del self._groups[group]
        self.count -= len(given)
        return [each[5] for each in given]

    def tasks(self) -> list[T]:
        """Everything that waits, in no order."""
        return [each[5] for waiting in self._groups.values() for each in waiting]
