"""Tables of what is decided from what is wanted and what there is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from hpcserve.core.deployments import reconcile
from hpcserve.core.fleetview import (
    CancelPilot,
    Change,
    Pilot,
    Policy,
    Replica,
    RetireReplica,
    StartReplica,
    StopReplica,
    SubmitPilot,
    View,
    Wanted,
)
from hpcserve.types import DeploymentName, PilotId, ReplicaId

NOW = 1000.0
POLICY = Policy(max_pilots=2, slots=2, idle_s=300.0, orphan_s=600.0)
LEAD_S, DRAIN_S = 60.0, 10.0


def wanted(name: str = "d", version: str = "v1", replicas: int = 1, **more: float) -> Wanted:
    return Wanted(
        name=DeploymentName(name),
        version=version,
        replicas=replicas,
        not_before_s=more.get("not_before_s", 0.0),
        failed=bool(more.get("failed", False)),
        waits_since_s=more.get("waits_since_s", math.inf),
    )


def pilot(
    name: str = "p1", phase: str = "running", *, reported: bool = True, size: int = 2, **more: float | None
) -> Pilot:
    return Pilot(
        pilot=PilotId(name),
        phase=phase,  # type: ignore[arg-type]  # the tables write plain words
        slots=2,
        size=size,
        reported=reported,
        idle_since_s=more.get("idle_since_s") or NOW,
        ends_s=more.get("ends_s"),
        away_since_s=more.get("away_since_s"),
        lead_s=LEAD_S,
        drain_s=DRAIN_S,
    )


def replica(name: str, state: str = "ready", version: str = "v1", where: str = "p1", of: str = "d") -> Replica:
    return Replica(
        replica=ReplicaId(name),
        deployment=DeploymentName(of),
        version=version,
        pilot=PilotId(where),
        state=state,  # type: ignore[arg-type]  # the tables write plain words
    )


def view(
    *,
    wants: tuple[Wanted, ...] = (),
    pilots: tuple[Pilot, ...] = (),
    replicas: tuple[Replica, ...] = (),
    submit_not_before_s: float = 0.0,
) -> View:
    return View(
        policy=POLICY,
        wanted=wants,
        pilots=pilots,
        replicas=replicas,
        seed="s",
        next_number=7,
        submit_not_before_s=submit_not_before_s,
    )


def start(number: int, where: str = "p1", version: str = "v1", of: str = "d") -> StartReplica:
    return StartReplica(ReplicaId(f"{of}-s{number}"), DeploymentName(of), version, PilotId(where))


def submit(number: int) -> SubmitPilot:
    return SubmitPilot(PilotId(f"pilot-s{number}"))


def cancel(name: str) -> CancelPilot:
    return CancelPilot(PilotId(name))


def retire(name: str) -> RetireReplica:
    return RetireReplica(ReplicaId(name))


def stop(name: str) -> StopReplica:
    return StopReplica(ReplicaId(name))


OLD = NOW - 301
CASES: dict[str, tuple[View, list[Change]]] = {
    "nothing wanted, nothing there": (view(), []),
    "a first replica needs a pilot": (view(wants=(wanted(),)), [submit(7)]),
    "five replicas need three pilots, two are allowed": (view(wants=(wanted(replicas=5),)), [submit(7), submit(8)]),
    "a queued pilot is waited for": (view(wants=(wanted(),), pilots=(pilot(phase="queued", reported=False),)), []),
    "a running pilot without its agent is waited for": (view(wants=(wanted(),), pilots=(pilot(reported=False),)), []),
    "an unknown pilot forbids another": (
        view(wants=(wanted(replicas=4),), pilots=(pilot(phase="unknown", reported=False),)),
        [],
    ),
    "a pilot unknown to the scheduler still takes replicas while its agent reports": (
        view(wants=(wanted(),), pilots=(pilot(phase="unknown"),)),
        [start(7)],
    ),
    "pilots that failed are not submitted again before their time": (
        view(wants=(wanted(),), submit_not_before_s=NOW + 1),
        [],
    ),
    "and are afterwards": (view(wants=(wanted(),), submit_not_before_s=NOW), [submit(7)]),
    "a replica starts on a pilot that has room": (view(wants=(wanted(),), pilots=(pilot(),)), [start(7)]),
    "replicas are spread": (
        view(wants=(wanted(replicas=2),), pilots=(pilot("p1"), pilot("p2"))),
        [start(7, "p1"), start(8, "p2")],
    ),
    "slots are kept; the rest gets a pilot": (
        view(wants=(wanted(replicas=3),), pilots=(pilot(),)),
        [start(7), start(8), submit(9)],
    ),
    "a stopping replica still fills its slot": (
        view(wants=(wanted(replicas=2),), pilots=(pilot(),), replicas=(replica("r1", "stopping"), replica("r2"))),
        [submit(7)],
    ),
    "deployments take turns": (
        view(wants=(wanted("a", replicas=2), wanted("b")), pilots=(pilot(),)),
        [start(7, of="a"), start(8, of="b"), submit(9)],
    ),
    "what is free goes to the one with the fewest": (
        view(
            wants=(wanted("a", replicas=2), wanted("b", replicas=2), wanted("c", replicas=2)),
            pilots=(pilot(),),
            replicas=(replica("r1", of="a"), replica("r2", "stopping", where="p9", of="b")),
        ),
        [start(7, of="b"), submit(8)],
    ),
    "of those with none to the one that has waited longest": (
        view(wants=(wanted("a"), wanted("b", waits_since_s=20.0), wanted("c", waits_since_s=10.0)), pilots=(pilot(),)),
        [start(7, of="c"), start(8, of="b"), submit(9)],
    ),
    "back-off is kept": (view(wants=(wanted(not_before_s=NOW + 1),), pilots=(pilot(),)), []),
    "and is over in time": (view(wants=(wanted(not_before_s=NOW),), pilots=(pilot(),)), [start(7)]),
    "a failed deployment starts nothing": (view(wants=(wanted(failed=True),)), []),
    "and keeps what serves": (
        view(wants=(wanted(replicas=2, failed=True),), pilots=(pilot(),), replicas=(replica("r1"),)),
        [],
    ),
    "too many: those that start go first, at once": (
        view(wants=(wanted(),), pilots=(pilot(),), replicas=(replica("r1", "starting"), replica("r2"))),
        [stop("r1")],
    ),
    "too many ready: the youngest retires": (
        view(wants=(wanted(),), pilots=(pilot(),), replicas=(replica("r1"), replica("r2"))),
        [retire("r2")],
    ),
    "scaled to nothing": (
        view(wants=(wanted(replicas=0),), pilots=(pilot(),), replicas=(replica("r1"),)),
        [retire("r1")],
    ),
    "not wanted: ready ones retire, others stop": (
        view(pilots=(pilot(),), replicas=(replica("r1"), replica("r2", "starting"))),
        [retire("r1"), stop("r2")],
    ),
    "retiring ones are left to finish": (view(pilots=(pilot(),), replicas=(replica("r1", "retiring"),)), []),
    "a retired one is stopped": (view(pilots=(pilot(),), replicas=(replica("r1", "retired"),)), [stop("r1")]),
    "a new version starts beside the old": (
        view(wants=(wanted(version="v2"),), pilots=(pilot(),), replicas=(replica("r1"),)),
        [start(7, version="v2")],
    ),
    "the old one serves until the new one is ready": (
        view(
            wants=(wanted(version="v2"),), pilots=(pilot(),), replicas=(replica("r1"), replica("r2", "starting", "v2"))
        ),
        [],
    ),
    "then it retires": (
        view(wants=(wanted(version="v2"),), pilots=(pilot(),), replicas=(replica("r1"), replica("r2", "ready", "v2"))),
        [retire("r1")],
    ),
    "an old one that only starts is stopped": (
        view(wants=(wanted(version="v2"),), pilots=(pilot(),), replicas=(replica("r1", "starting"),)),
        [stop("r1"), start(7, version="v2")],
    ),
    "a new version that failed leaves the old one serving": (
        view(wants=(wanted(version="v2", failed=True),), pilots=(pilot(),), replicas=(replica("r1"),)),
        [],
    ),
    "without room, one old one makes it": (
        view(
            wants=(wanted(version="v2", replicas=4),),
            pilots=(pilot("p1"), pilot("p2")),
            replicas=tuple(replica(f"r{n}", where=f"p{n % 2 + 1}") for n in range(4)),
        ),
        [retire("r0")],
    ),
    "one at a time": (
        view(
            wants=(wanted(version="v2", replicas=4),),
            pilots=(pilot("p1"), pilot("p2")),
            replicas=(replica("r0", "retiring"), *(replica(f"r{n}", where=f"p{n % 2 + 1}") for n in range(1, 4))),
        ),
        [],
    ),
    "a pilot near its end takes nothing new": (
        view(wants=(wanted(),), pilots=(pilot(ends_s=NOW + 59),)),
        [submit(7), CancelPilot(PilotId("p1"))],
    ),
    "a pilot near its end has a successor, though there may be no more pilots": (
        view(
            wants=(wanted(replicas=4),),
            pilots=(pilot("p1", ends_s=NOW + 59), pilot("p2")),
            replicas=tuple(replica(f"r{n}", where="p1" if n < 2 else "p2") for n in range(4)),
        ),
        [submit(7)],
    ),
    "but never are there more than twice as many": (
        view(
            wants=(wanted(replicas=4),),
            pilots=tuple(pilot(f"p{n}", ends_s=NOW + 59) for n in range(4)),
            replicas=tuple(replica(f"r{n}", where=f"p{n}") for n in range(4)),
        ),
        [],
    ),
    "in the last seconds of a pilot its replicas get no more work, though there are no others": (
        view(wants=(wanted(),), pilots=(pilot(ends_s=NOW + 9),), replicas=(replica("r1"),)),
        [RetireReplica(ReplicaId("r1")), submit(7)],
    ),
    "before that one goes on until there are others": (
        view(
            wants=(wanted(),),
            pilots=(pilot(ends_s=NOW + 59), pilot("p2", phase="queued", reported=False)),
            replicas=(replica("r1"),),
        ),
        [],
    ),
    "a pilot whose agent is away is not coming, though it has not reported": (
        view(wants=(wanted(),), pilots=(pilot(reported=False, away_since_s=NOW - 5),)),
        [submit(7)],
    ),
    "a pilot whose agent is away is replaced": (
        view(wants=(wanted(),), pilots=(pilot(away_since_s=NOW - 5), pilot("p2")), replicas=(replica("r1"),)),
        [start(7, "p2")],
    ),
    "even where there may be no more pilots": (
        view(wants=(wanted(),), pilots=(pilot(away_since_s=NOW - 5), pilot("p2", phase="suspended"))),
        [submit(7)],
    ),
    "and ended when it stays away": (
        view(pilots=(pilot(away_since_s=NOW - 600),), replicas=(replica("r1", state="stopping"),)),
        [CancelPilot(PilotId("p1"))],
    ),
    "a suspended pilot takes nothing, and another is submitted": (
        view(wants=(wanted(),), pilots=(pilot(phase="suspended"),), replicas=(replica("r1"),)),
        [submit(7)],
    ),
    "and its replicas are replaced elsewhere": (
        view(
            wants=(wanted(),),
            pilots=(pilot("p1", ends_s=NOW + 59), pilot("p2")),
            replicas=(replica("r1"),),
        ),
        [start(7, "p2")],
    ),
    "before they retire": (
        view(
            wants=(wanted(),),
            pilots=(pilot("p1", ends_s=NOW + 59), pilot("p2")),
            replicas=(replica("r1"), replica("r2", where="p2")),
        ),
        [retire("r1")],
    ),
    "a leaving pilot counts against the limit": (
        view(wants=(wanted(),), pilots=(pilot("p1", "leaving"), pilot("p2", "leaving"))),
        [],
    ),
    "an idle pilot ends in time": (
        view(pilots=(pilot("p1", idle_since_s=OLD), pilot("p2", idle_since_s=NOW - 299))),
        [cancel("p1")],
    ),
    "a pilot with a replica is not idle": (
        view(wants=(wanted(),), pilots=(pilot(idle_since_s=OLD),), replicas=(replica("r1"),)),
        [],
    ),
    "an idle pilot waits for a back-off": (
        view(wants=(wanted(not_before_s=NOW + 9),), pilots=(pilot(idle_since_s=OLD),)),
        [],
    ),
    "a queued pilot that is needed waits for ever": (
        view(wants=(wanted(),), pilots=(pilot(phase="queued", reported=False, idle_since_s=OLD),)),
        [],
    ),
    "one that is not ends": (view(pilots=(pilot(phase="queued", reported=False, idle_since_s=OLD),)), [cancel("p1")]),
    "of two queued pilots the one too many ends": (
        view(
            wants=(wanted(),),
            pilots=tuple(pilot(f"p{n}", "queued", reported=False, idle_since_s=OLD) for n in (1, 2)),
        ),
        [cancel("p2")],
    ),
    "an unknown pilot is not cancelled": (view(pilots=(pilot(phase="unknown", idle_since_s=OLD),)), []),
    "one beyond the limit hands its replicas over": (
        view(
            wants=(wanted(replicas=3),),
            pilots=(pilot("p1"), pilot("p2"), pilot("p3")),
            replicas=(replica("r1"), replica("r2", where="p2"), replica("r3", where="p3")),
        ),
        [start(7, "p1")],
    ),
    "and lets go of them when others are ready": (
        view(
            wants=(wanted(replicas=3),),
            pilots=(pilot("p1"), pilot("p2"), pilot("p3")),
            replicas=(replica("r1"), replica("s7"), replica("r2", where="p2"), replica("r3", where="p3")),
        ),
        [retire("r3")],
    ),
    "and although there will be no room": (
        view(
            wants=(wanted(replicas=6),),
            pilots=(pilot("p1"), pilot("p2"), pilot("p3")),
            replicas=tuple(replica(f"r{n}", where=f"p{n % 3 + 1}") for n in range(5)),
        ),
        [retire("r2")],
    ),
    "the one beyond the limit is the one with the fewest replicas": (
        view(
            wants=(wanted(replicas=3),),
            pilots=(pilot("p1"), pilot("p2"), pilot("p3")),
            replicas=(replica("r1"), replica("r2", where="p2"), replica("r3", where="p3"), replica("r4", where="p3")),
        ),
        [retire("r2")],
    ),
    "one that leaves already makes no other leave": (
        view(
            wants=(wanted(replicas=2),),
            pilots=(pilot("p1", "leaving"), pilot("p2"), pilot("p3", "queued", reported=False)),
            replicas=(replica("r1", where="p2"), replica("r2", where="p2")),
        ),
        [],
    ),
    "pilots above the limit end without waiting": (
        view(pilots=(pilot("p1"), pilot("p2"), pilot("p3"))),
        [cancel("p3")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_decision(case: str) -> None:
    given, expected = CASES[case]
    assert list(reconcile(given, NOW)) == expected


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_what_is_given_does_not_matter(case: str) -> None:
    given, expected = CASES[case]
    turned = replace(given, wanted=given.wanted[::-1], pilots=given.pilots[::-1], replicas=given.replicas[::-1])
    assert list(reconcile(turned, NOW)) == expected


@pytest.mark.parametrize(
    ("limits", "submitted"), [({}, 4), ({"max_queued": 3}, 2), ({"max_queued": 1}, 0), ({"max_running": 3}, 2)]
)
def test_no_more_pilots_wait_or_run_than_the_queue_allows(limits: dict[str, Any], submitted: int) -> None:
    view = View(
        policy=replace(POLICY, max_pilots=5, **limits),
        wanted=(wanted(replicas=10),),
        pilots=(pilot("p1", "queued", reported=False),),
        replicas=(),
        seed="s",
        next_number=7,
    )
    found = [change for change in reconcile(view, NOW) if isinstance(change, SubmitPilot)]
    assert len(found) == submitted
    assert [each.lacking for each in found] == [2] * submitted


def test_a_pilot_that_was_cancelled_is_in_the_queue_until_it_has_ended() -> None:
    view = View(
        policy=replace(POLICY, max_pilots=3, max_queued=1),
        wanted=(wanted(replicas=2),),
        pilots=(pilot("p1", "leaving", reported=False),),
        replicas=(),
        seed="s",
        next_number=7,
    )
    assert reconcile(view, NOW) == ()
    assert reconcile(replace(view, pilots=(pilot("p1", "leaving"),)), NOW) == (submit(7),)


def test_a_full_queue_lets_no_replica_go_early() -> None:
    view = View(
        policy=replace(POLICY, max_pilots=3, max_queued=1),
        wanted=(wanted(version="v2", replicas=6),),
        pilots=(pilot("p1"), pilot("p2", "queued", reported=False)),
        replicas=(replica("r1"), replica("r2")),
        seed="s",
        next_number=7,
    )
    assert reconcile(view, NOW) == ()
