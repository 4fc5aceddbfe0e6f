"""How large a batch may be, and which requests are in it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Hashable
from statistics import median
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hpcserve.core.batching import SHARE, SHARE_OVERLAPPED, UNBATCHED, BatchSize, Group, Inbox, Policy, Sizes
from hpcserve.core.latency import Line
from hpcserve.core.ledger import NEVER

A = ("go", "shape", b"")
B = ("go", "other", b"")
EAGER = Sizes(lambda method: Policy())


class Simulated(NamedTuple):
    throughput: float
    largest_s: float
    size: BatchSize


def simulated(
    line: Line,
    policy: Policy,
    *,
    rate: float,
    seconds: float,
    change: tuple[float, Line] | None = None,
    stalls_s: tuple[float, float] | None = None,
    seed: int = 1,
) -> Simulated:
    """A replica in virtual time: requests come at random, batches take as long as the line says, within 5 %.

    Every fifth batch, on average, takes longer by a time between ``stalls_s``.
    The throughput and the longest time of a request are those of the last half.
    """
    dice = random.Random(seed)
    size = BatchSize(policy)
    now, arrives, done, longest_s = 0.0, 0.0, 0, 0.0
    waiting: deque[float] = deque()
    while now < seconds:
        if change is not None and now >= change[0]:
            line = change[1]
        if not waiting:
            now = max(now, arrives)
        while arrives <= now:
            waiting.append(arrives)
            arrives += dice.expovariate(rate)
        samples = min(len(waiting), size.limit)
        took_s = line.seconds(samples) * dice.uniform(0.95, 1.05)
        if stalls_s is not None and dice.random() < 0.2:
            took_s += dice.uniform(*stalls_s)
        now += took_s
        batch = [waiting.popleft() for _ in range(samples)]
        size.ran(samples, took_s, full=bool(waiting), requests=samples)
        if now > seconds / 2:
            done += samples
            longest_s = max(longest_s, now - batch[0])
    return Simulated(done / (seconds / 2), longest_s, size)


CASES = [
    pytest.param(Line(5e-3, 1e-4), 0.05, id="mostly-fixed"),
    pytest.param(Line(2e-2, 1e-3), 0.2, id="slow"),
    pytest.param(Line(1e-3, 5e-4), 0.03, id="mostly-per-sample"),
]


@pytest.mark.parametrize(("line", "objective_s"), CASES)
def test_overloaded_it_comes_near_the_best_fixed_size(line: Line, objective_s: float) -> None:
    best = max(n / line.seconds(n) for n in range(1, 1025) if 2 * line.seconds(n) <= objective_s)
    found = simulated(line, Policy(objective_s, 1024), rate=3 * best, seconds=20)
    assert found.throughput >= 0.9 * best
    assert line.seconds(found.size.limit) <= 1.1 * SHARE * objective_s


@pytest.mark.parametrize(("line", "objective_s"), CASES)
def test_below_its_capacity_it_keeps_the_objective(line: Line, objective_s: float) -> None:
    most = simulated(line, Policy(objective_s, 1024), rate=1e5, seconds=10).throughput
    found = simulated(line, Policy(objective_s, 1024), rate=0.8 * most, seconds=20)
    assert found.largest_s <= objective_s


@pytest.mark.parametrize("times", [0.4, 2.0])
def test_a_change_of_the_model_is_learned_in_five_seconds(times: float) -> None:
    line, objective_s = Line(5e-3, 4e-4), 0.06
    new = Line(line.fixed_s * times, line.per_sample_s * times)
    best = max(n / new.seconds(n) for n in range(1, 1025) if 2 * new.seconds(n) <= objective_s)
    found = simulated(line, Policy(objective_s, 1024), rate=1e5, seconds=20, change=(5.0, new))
    assert found.throughput >= 0.85 * best
    assert new.seconds(found.size.limit) <= 1.2 * SHARE * objective_s


def test_without_an_objective_it_ends_where_more_samples_save_nothing() -> None:
    found = simulated(Line(1e-3, 1e-3), Policy(max_samples=1024), rate=1e5, seconds=20).size
    assert found.limit == pytest.approx(19, abs=8)
    endless = simulated(Line(1e-2, 0.0), Policy(max_samples=300), rate=1e5, seconds=20).size
    assert endless.limit == 300


def test_it_grows_by_doubling_and_only_over_sizes_that_ran() -> None:
    size = BatchSize(Policy(10.0, 1024))
    limits = []
    for _ in range(6):
        size.ran(size.limit, 1e-3, full=True)
        limits.append(size.limit)
    assert limits == [2, 4, 8, 16, 32, 64]


def test_one_sample_that_takes_too_long_is_run_all_the_same() -> None:
    size = BatchSize(Policy(0.01, 64))
    for _ in range(100):
        size.ran(1, 1.0, full=True)
    assert size.limit == 1
    for _ in range(12):
        size.ran(size.limit, 1e-4 * size.limit, full=True, requests=size.limit)
    assert size.limit > 8


def test_one_sample_that_takes_too_long_does_not_allow_more_of_them() -> None:
    size = BatchSize(Policy(0.01, 64))
    for _ in range(200):
        size.ran(1, 0.006, full=True)
    assert size.factor <= 1.0


def test_batches_that_take_too_long_make_the_next_smaller() -> None:
    size = BatchSize(Policy(0.1, 1024))
    for samples in (1, 2, 4, 8, 16, 32):
        size.ran(samples, 1e-3 * samples, full=True)
    before = size.limit
    for _ in range(3):
        size.ran(before, 1.3 * SHARE * 0.1, full=True)
    assert size.limit < before


@pytest.mark.parametrize("line", [Line(1e-2, 5e-4), Line(2e-2, 1e-3)])
def test_a_machine_that_stalls_does_not_make_an_overload_of_what_it_could_serve(line: Line) -> None:
    mean_s = 0.2 * (0.01 + 0.1) / 2
    limit = int(line.samples(SHARE * 0.1))
    rate = 0.7 * limit / (line.seconds(limit) + mean_s)
    found = simulated(line, Policy(0.1, 1024), rate=rate, seconds=200, stalls_s=(0.01, 0.1))
    assert found.size.factor > 0.5
    assert found.largest_s < 0.8


def test_out_of_memory_is_remembered() -> None:
    size = BatchSize(Policy(None, 256))
    for samples in (1, 2, 4, 8, 16, 32):
        size.ran(samples, 1e-3, full=True)
    assert size.limit == 64
    size.out_of_memory(64)
    assert size.limit == 32
    for _ in range(10):
        size.ran(32, 1e-3, full=True)
    assert size.limit == 32
    size.out_of_memory(1)
    assert size.limit == 1


def test_what_others_had_no_memory_for_is_not_tried_again() -> None:
    sizes = Sizes(lambda method: Policy(None, 256))
    before = sizes.of(A)
    found: dict[tuple[str, Hashable], int] = {A[:2]: 12, B[:2]: 3}
    for fits in (found, {}):
        sizes.fit(fits)
        for group, most in ((A, 12), (B, 3)):
            size = sizes.of(group)
            for _ in range(5):
                size.ran(size.limit, 1e-3, full=True)
            assert size.limit == most
    assert sizes.of(A) is before
    free = sizes.of(("go", "third", b""))
    for _ in range(5):
        free.ran(free.limit, 1e-3, full=True)
    assert free.limit > 12


def test_sizes_follow_what_the_deployment_says() -> None:
    sizes = Sizes(lambda method: Policy(max_samples=100))
    size = sizes.of(A)
    for samples in (1, 2, 4, 8, 16, 32, 64):
        size.ran(samples, 1e-3 * samples + 5e-3, full=True)
    assert size.limit == 95  # where a sample more saves less than a twentieth
    sizes.tune(0.1, 30)
    assert sizes.of(A) is size
    assert size.limit == 30
    sizes.tune(0.04, None)
    assert size.limit == pytest.approx((SHARE * 0.04 - 5e-3) / 1e-3, abs=2)
    assert sizes.of(("go", "new", b"")).policy == Policy(0.04, 100)


def test_the_same_wish_again_changes_nothing() -> None:
    size = BatchSize(Policy(None, 256))
    for samples in (1, 2, 4, 8, 16, 32):
        size.ran(samples, 1e-3, full=True)
    size.out_of_memory(64)
    size.tune(Policy(None, 256))
    size.tune(Policy(None, 128))
    for _ in range(10):
        size.ran(32, 1e-3, full=True)
    assert size.limit == 32


@pytest.mark.parametrize("samples", [7, 16, 32])
@pytest.mark.parametrize("preferred", [(), (32, 128), (1, 64)])
def test_requests_of_many_samples_and_slow_batches_leave_batches_large(
    samples: int, preferred: tuple[int, ...]
) -> None:
    dice = random.Random(1)
    line, size, inbox = Line(5e-3, 1e-4), BatchSize(Policy(0.04, 256, preferred=preferred)), Inbox[int]()
    sizes = []
    for number in range(400):
        while len(inbox) < 64:
            inbox.push(number, A, samples=samples, priority=0, deadline=NEVER, now=0.0)
        taken, full = inbox.take(A, size.limit, preferred)
        sizes.append(samples * len(taken))
        size.ran(sizes[-1], line.seconds(sizes[-1]) * (3 if dice.random() < 0.02 else 1), full=full)
    assert median(sizes[-100:]) >= 48


def test_many_kinds_of_requests_are_all_remembered() -> None:
    sizes = Sizes(lambda method: Policy(1.0))
    for _ in range(8):
        for kind in range(300):
            size = sizes.of(("go", kind, b""))
            size.ran(size.limit, 1e-3, full=True)
    assert all(size.limit >= 128 for _, size in sizes)


# --- the inbox ------------------------------------------------------------------------------------------


def pushed(*requests: tuple[str, Group, int, int]) -> Inbox[str]:
    """An inbox with these requests: name, group, samples, priority."""
    inbox: Inbox[str] = Inbox()
    for place, (name, group, samples, priority) in enumerate(requests):
        inbox.push(name, group, samples=samples, priority=priority, deadline=NEVER, now=float(place))
    return inbox


def test_priority_goes_before_arrival() -> None:
    inbox = pushed(("low", A, 1, -1), ("first", A, 1, 0), ("second", A, 1, 0), ("urgent", A, 1, 1))
    assert inbox.take(A, 10)[0] == ["urgent", "first", "second", "low"]


def test_the_group_of_the_first_request_is_the_next() -> None:
    inbox = pushed(("a1", A, 1, 0), ("b1", B, 1, 0), ("a2", A, 1, 0), ("b2", B, 1, 5))
    assert inbox.next(EAGER, 0.0)[0] == B
    assert inbox.take(B, 8)[0] == ["b2", "b1"]
    assert inbox.next(EAGER, 0.0)[0] == A
    assert inbox.take(A, 8)[0] == ["a1", "a2"]
    assert not inbox


@pytest.mark.parametrize(("limit", "taken"), [(1, ["a"]), (3, ["a"]), (5, ["a", "b"]), (6, ["a", "b", "c"])])
def test_a_batch_has_whole_requests_up_to_the_limit_and_one_in_any_case(limit: int, taken: list[str]) -> None:
    inbox = pushed(("a", A, 3, 0), ("b", A, 2, 0), ("c", A, 1, 0))
    assert inbox.take(A, limit)[0] == taken
    assert len(inbox) == 3 - len(taken)


def test_what_cannot_share_a_batch_runs_alone() -> None:
    inbox = pushed(("a", UNBATCHED, 1, 0), ("b", UNBATCHED, 1, 0))
    assert inbox.take(UNBATCHED, 10)[0] == ["a"]
    assert inbox.take(UNBATCHED, 10)[0] == ["b"]


def test_a_batch_is_cut_to_a_preferred_size_when_others_wait() -> None:
    many = [(str(n), A, 1, 0) for n in range(20)]
    inbox = pushed(*many)
    assert len(inbox.take(A, 14, (4, 8, 16))[0]) == 8
    assert len(inbox.take(A, 14, (4, 8, 16))[0]) == 12  # nobody would wait for the rest


def test_a_batch_waits_for_company_only_where_the_method_says_so() -> None:
    patient = Sizes(lambda method: Policy(max_wait_s=0.01))
    size = patient.of(A)
    for samples in (1, 2, 4):
        size.ran(samples, 1e-3, full=True)
    inbox = pushed(("a", A, 1, 0))
    assert inbox.next(EAGER, 0.0)[1] == 0.0
    assert inbox.next(patient, 0.002)[1] == pytest.approx(0.008)
    assert inbox.next(patient, 0.02)[1] == 0.0
    for name in "bcdefgh":
        inbox.push(name, A, samples=1, priority=0, deadline=NEVER, now=0.003)
    assert len(inbox) == size.limit
    assert inbox.next(patient, 0.003)[1] == 0.0


def test_a_group_that_waits_for_company_holds_up_no_other() -> None:
    sizes = Sizes(lambda method: Policy(max_wait_s=0.2 if method == "patient" else 0.0))
    patient = ("patient", "shape", b"")
    for samples in (1, 2, 4):
        sizes.of(patient).ran(samples, 1e-3, full=True)
    inbox = pushed(("a", patient, 1, 5), ("b", UNBATCHED, 1, 0), ("c", A, 1, 0))
    assert inbox.next(sizes, 0.01) == (UNBATCHED, 0.0)
    inbox.take(UNBATCHED, 1)
    assert inbox.next(sizes, 0.01) == (A, 0.0)
    inbox.take(A, 1)
    group, wait_s = inbox.next(sizes, 0.01)
    assert group == patient
    assert wait_s == pytest.approx(0.19)


def test_nobody_waits_for_company_beyond_half_of_his_time() -> None:
    sizes = Sizes(lambda method: Policy(max_wait_s=10.0))
    for samples in (1, 2, 4):
        sizes.of(A).ran(samples, 1e-3, full=True)
    inbox: Inbox[str] = Inbox()
    inbox.push("a", A, samples=1, priority=0, deadline=1.0, now=0.0)
    assert inbox.next(sizes, 0.1)[1] == pytest.approx(0.4)


class Compared(int):
    """A priority that counts how often it is compared."""

    times = 0

    def __neg__(self) -> Compared:
        return Compared(-int(self))

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_many_groups_are_not_put_in_order_to_find_the_first() -> None:
    groups = 256
    inbox = pushed(*((str(n), ("go", "shape", bytes([n])), 1, Compared(n * 77 % groups)) for n in range(groups)))
    Compared.times = 0
    group, _ = inbox.next(EAGER, 0.0)
    assert inbox.take(group, 1)[0] == [str(255 * pow(77, -1, groups) % groups)]
    assert Compared.times <= 2 * groups


class InboxMachine(RuleBasedStateMachine):
    """Against a sorted list: nothing is lost, doubled, or runs before what is more urgent in its group."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox: Inbox[int] = Inbox()
        self.waiting: list[tuple[int, int, int, Group]] = []
        self.number = 0

    @rule(
        group=st.sampled_from([A, B, UNBATCHED]),
        samples=st.integers(0, 5),
        priority=st.integers(-1, 1),
    )
    def push(self, group: Group, samples: int, priority: int) -> None:
        self.number += 1
        self.inbox.push(self.number, group, samples=samples, priority=priority, deadline=NEVER, now=0.0)
        self.waiting.append((-priority, self.number, samples, group))

    @precondition(lambda self: self.waiting)
    @rule(limit=st.integers(1, 8), preferred=st.sampled_from([(), (2,), (2, 4)]))
    def take(self, limit: int, preferred: tuple[int, ...]) -> None:
        self.waiting.sort(key=lambda each: each[:2])
        group, _ = self.inbox.next(EAGER, 0.0)
        assert group == self.waiting[0][3]
        taken = self.inbox.take(group, limit, preferred)[0]
        same = [each for each in self.waiting if each[3] == group]
        assert taken == [each[1] for each in same[: len(taken)]]
        assert len(taken) == 1 or (group is not UNBATCHED and sum(each[2] for each in same[: len(taken)]) <= limit)
        self.waiting = [each for each in self.waiting if each[1] not in taken]

    @invariant()
    def all_are_there(self) -> None:
        assert len(self.inbox) == len(self.waiting)
        assert sorted(self.inbox.tasks()) == sorted(each[1] for each in self.waiting)


TestInbox = InboxMachine.TestCase


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(1e-6, 10)), max_size=80), st.integers(1, 64))
def test_the_limit_is_never_outside_its_bounds(batches: list[tuple[int, float]], most: int) -> None:
    size = BatchSize(Policy(0.05, most))
    for samples, took_s in batches:
        size.ran(samples, took_s, full=True)
        assert 1 <= size.limit <= most


def test_what_is_quick_alone_is_not_joined() -> None:
    size = BatchSize(Policy())
    size.ran(1, 3e-4, full=True)  # the first call of a method is slow
    size.ran(size.limit, 1e-4, full=True, requests=size.limit)
    assert size.limit > 1
    sizes = []
    for number in range(200):
        requests = size.limit
        slow_s = 3e-3 if number % 20 == 0 else 0.0  # another process had the core
        size.ran(requests, slow_s + (2e-5 if requests == 1 else 4e-5 * requests), full=True, requests=requests)
        sizes.append(size.limit)
    assert set(sizes[-100:]) == {1}


def test_what_becomes_slow_alone_is_joined_again() -> None:
    size = BatchSize(Policy())
    for _ in range(100):
        size.ran(1, 2e-5, full=True)
    assert size.limit == 1
    for _ in range(100):
        requests = size.limit
        size.ran(requests, 1e-3 + 1e-5 * requests, full=True, requests=requests)
    assert size.limit >= 32


def served(size: BatchSize, fixed_s: float, per_sample_s: float, batches: int = 300) -> list[int]:
    """The limits after each of so many full batches, while requests of one sample wait in a long queue."""
    limits = []
    for _ in range(batches):
        requests = size.limit
        size.ran(requests, fixed_s + per_sample_s * requests, full=True, requests=requests)
        limits.append(size.limit)
    return limits


@pytest.mark.parametrize("objective_s", [0.05, 0.03, 0.01])
def test_batches_grow_though_one_sample_takes_about_all_that_is_allowed(objective_s: float) -> None:
    size = BatchSize(Policy(objective_s=objective_s))
    assert min(served(size, 0.02, 2e-5)[-100:]) >= 64


def test_batches_stay_small_where_they_save_nothing() -> None:
    size = BatchSize(Policy(objective_s=0.05))
    limits = served(size, 0.0, 0.02)
    assert max(limits) <= 2
    assert limits.count(2) <= len(limits) / 10


@pytest.mark.parametrize(("overlaps", "share"), [(False, SHARE), (True, SHARE_OVERLAPPED)])
def test_batches_are_shorter_where_the_next_is_launched_before_they_end(*, overlaps: bool, share: float) -> None:
    size = BatchSize(Policy(objective_s=0.1, overlaps=overlaps))
    for samples in (1, 2, 4, 8, 16, 32):
        for _ in range(8):
            size.ran(samples, 5e-3 + samples * 1e-3, full=False)
    assert size.limit == pytest.approx((share * 0.1 - 5e-3) / 1e-3, abs=2)


@pytest.mark.parametrize(("samples", "fills"), [(1, True), (5, True), (6, False)])
def test_whether_what_waits_fills_a_batch(samples: int, *, fills: bool) -> None:
    kind: Group = ("m", (), b"")
    other: Group = ("n", (), b"")
    inbox = pushed(("a", kind, 2, 0), ("b", kind, 3, 0), ("c", other, 90, 0))
    assert inbox.fills(kind, samples) is fills
    assert not inbox.fills(("none", (), b""), samples)
