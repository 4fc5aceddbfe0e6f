"""The book of deliveries: what is known of each, which of them travel together, and until when.

Whoever holds it decides what is done: :mod:`hpcserve.core.transfers`, and what owners submit themselves,
:mod:`hpcserve.core.offers`. Times are seconds of one clock, which goes on over restarts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hpcserve.core.delivery import ENDED, Action, Delivery, Limits, Progress, State, Store, Submit
from hpcserve.core.faults import IN_TIME
from hpcserve.core.shipments import Shipment


class Book:
    """All deliveries of a service, and the shipments that they travel in.

    Args:
        limits: What the site sets.
        deliveries: As they were stored.
        now: The time, which counts for what was offered.

    Attributes:
        limits: As above.
    """

    def __init__(self, limits: Limits, deliveries: Iterable[Delivery] = (), now: float = 0.0) -> None:
        self.limits = limits
        self._deliveries = {each.id: each for each in sorted(deliveries, key=lambda each: (each.asked_s, each.id))}
        self._shipments: dict[int, Shipment] = {}
        self._of: dict[str, int] = {}
        self._last = 0
        by_submission: dict[str, list[Delivery]] = {}
        for each in list(self._deliveries.values()):
            if each.submission and not each.ended:
                by_submission.setdefault(each.submission, []).append(each)
            elif each.state == "cancelling":  # nothing was submitted
                self._deliveries[each.id] = replace(each, state="cancelled", ended_s=each.asked_s)
        for submission, members in by_submission.items():
            shipment = self._shipments[self._ship(members)]
            shipment.submission, shipment.unsure = submission, True
            shipment.since = max(each.asked_s for each in members)
            shipment.task = next((each.task for each in members if each.task), "")
            shipment.offered = any(each.state == "offered" for each in members)
            if not shipment.offered and not shipment.task:  # the service may have been about to submit it
                shipment.unanswered = now
            if any(each.state in ("offered", "cancelling") for each in members):  # its owner may have the id
                shipment.handed_until = now + limits.hand_s

    # --- what is known ----------------------------------------------------------------------------

    def deliveries(self, owner: str | None = None) -> list[Delivery]:
        """Those of one owner, or of all; in the order in which they were asked for."""
        return [each for each in self._deliveries.values() if owner is None or each.owner == owner]

    def get(self, id: str) -> Delivery | None:
        """One delivery."""
        return self._deliveries.get(id)

    def state(self, id: str) -> State:
        """The state of a delivery."""
        return self._deliveries[id].state

    def progress(self, id: str) -> tuple[Progress | None, int, int]:
        """What Globus said last of a delivery's task, of how many bytes and files that is in all."""
        shipment = self.shipment_of(id)
        if shipment is None:
            return None, self._deliveries[id].size_bytes, 1
        return shipment.progress, sum(self._deliveries[each].size_bytes for each in shipment.ids), len(shipment.ids)

    def login(self, id: str) -> dict[str, Any] | None:
        """Which login a delivery waits for, as the ``detail`` of a LoginRequired; None: for none."""
        shipment = self.shipment_of(id)
        if shipment is None:
            return None
        return shipment.lacks.detail if shipment.login is None and shipment.lacks is not None else shipment.login

    def until(self, id: str) -> float | None:
        """Until when it is borne that something is wrong with a delivery; None: nothing is, or nobody knows."""
        shipment = self.shipment_of(id)
        if shipment is None or self._deliveries[id].state in ("inactive", "cancelling"):
            return None
        if shipment.bad_since is not None:
            return shipment.bad_since + self.limits.faults_s
        if shipment.bearing.since is not None and shipment.progress is not None and shipment.progress.fault in IN_TIME:
            return shipment.bearing.since + self.limits.faults_s
        return shipment.progress.until_s if shipment.progress is not None and shipment.progress.fault else None

    def holds(self, owner: str, name: str) -> bool:
        """Whether a staged file is still to be delivered, and must stay."""
        return any(each.owner == owner and each.name == name and not each.ended for each in self._deliveries.values())

    def shipments(self) -> list[Shipment]:
        """All that are not over."""
        return list(self._shipments.values())

    def number_of(self, id: str) -> int:
        """The number of the shipment that a delivery is in; 0: of none."""
        return self._of.get(id, 0)

    def shipment_of(self, id: str) -> Shipment | None:
        """The shipment that a delivery is in."""
        return self._shipments.get(self.number_of(id))

    def way(self, shipment: Shipment) -> tuple[str, str, str]:
        """Whose it is, and between which collections it goes."""
        first = self._deliveries[shipment.ids[0]]
        return shipment.owner, first.source.collection, first.target.collection

    def wants_cancel(self, shipment: Shipment) -> bool:
        """Whether somebody, or a fault, has cancelled any of it."""
        return any(self._deliveries[each].state == "cancelling" for each in shipment.ids)

    def is_looked_for(self, shipment: Shipment, now: float) -> bool:
        """Whether it is not submitted once more, though it may have been submitted."""
        return self.is_given_up(shipment, now) or self.is_dated(shipment, now)

    def is_given_up(self, shipment: Shipment, now: float) -> bool:
        """Whether it is not to be submitted once more, whoever might."""
        return shipment.lost is not None or self.wants_cancel(shipment) or self.is_old(shipment, now)

    def is_dated(self, shipment: Shipment, now: float) -> bool:
        """Whether it may have been submitted so long ago that Globus might make another task of its id."""
        return shipment.unsure and not shipment.task and shipment.since + self.limits.sure_s <= now

    def is_old(self, shipment: Shipment, now: float) -> bool:
        """Whether the site has what waits for so long given up."""
        return self.old_at(shipment) <= now

    def old_at(self, shipment: Shipment) -> float:
        """When it is old; infinity: never."""
        return min(self._deliveries[each].asked_s for each in shipment.ids) + self.limits.give_up_s

    def has_ended(self, shipment: Shipment, now: float) -> bool:
        """Whether its task is over its deadline, whenever it was submitted: nothing is that is too old."""
        return self.is_old(shipment, now - self.limits.deadline_s)

    def has_ended_since(self, since: float | None, now: float) -> bool:
        """Whether a task that was not submitted later has ended in any case."""
        return since is not None and now - since >= self.limits.hand_s + self.limits.deadline_s

    # --- what is changed --------------------------------------------------------------------------

    def change(
        self,
        ids: Iterable[str],
        *,
        state: State | None = None,
        submission: str | None = None,
        task: str | None = None,
        why: str | None = None,
        ended_s: float | None = None,
        whatever: bool = False,
    ) -> Store:
        """Changes what is given. That somebody cancelled is kept until the end."""
        changed = []
        for id in ids:
            old = self._deliveries[id]
            new = replace(
                old,
                submission=old.submission if submission is None else submission,
                task=old.task if task is None else task,
                ended_s=old.ended_s if ended_s is None else ended_s,
            )
            if old.state != "cancelling" or whatever or state in ENDED:
                new = replace(new, state=old.state if state is None else state, why=old.why if why is None else why)
            if new != old:
                self._deliveries[id] = new
                changed.append(new)
        return Store(tuple(changed))

    def order(self, number: int) -> tuple[Store, Submit]:
        """Stored each time that it is said: the last time may not have succeeded in that."""
        shipment = self._shipments[number]
        members = tuple(self._deliveries[each] for each in shipment.ids)
        return Store(members), Submit(number, shipment.owner, shipment.submission, members)

    def _ship(self, members: list[Delivery]) -> int:
        self._last += 1
        self._shipments[self._last] = Shipment(members[0].owner, [each.id for each in members])
        for each in members:
            self._of[each.id] = self._last
        return self._last

    def _take_out(self, id: str) -> None:
        number = self._of.pop(id, None)
        if number is not None:
            self._shipments[number].ids.remove(id)
            if not self._shipments[number].ids:
                del self._shipments[number]

    def _drop(self, number: int) -> None:
        for each in self._shipments.pop(number).ids:
            del self._of[each]

    def _leave(self, number: int, now: float) -> list[Action]:
        """Those of a shipment that was not submitted whose owner does not want them any more."""
        shipment = self._shipments[number]
        gone = [each for each in shipment.ids if self._deliveries[each].state == "cancelling"]
        for each in gone:
            self._take_out(each)
        return [self.change(gone, state="cancelled", ended_s=now)] if gone else []

    def _end(self, number: int, state: State, why: str, now: float) -> list[Action]:
        ended = self.change(self._shipments[number].ids, state=state, why=why, ended_s=now, whatever=True)
        self._drop(number)
        return [ended]
