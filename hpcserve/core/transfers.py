"""How staged results reach their owners' collections: which transfer task is submitted when, and what became of it.

A **delivery** is one file and where it is to go. Deliveries of one owner between the same two collections travel in one
transfer task, here a **shipment**. The rules:

- A submission id is asked for, and *stored*, before anything is submitted with it. Whoever restarts submits with the
  stored id again, for which Globus has one task, however often it is said: never two tasks, and none forgotten.
- An owner has so many tasks at once; further deliveries wait, in the order in which they were asked for.
- What may go well later (429, 502, 503, no connection) is tried again, ever more seldom, and not before the time that
  Globus asks for. What goes wrong for too long fails, in Globus's own words.
- What may have been submitted does not end for that: it is submitted with its id again, or, where that is refused or
  of no avail, its task is looked for. One that is under way ends as Globus says.
- Only a task that SUCCEEDED has delivered. One that is INACTIVE, or whose owner is not logged in, waits for that: for
  ever, unless the site keeps undelivered results for a time only. Then it ends when its task is over its deadline.
- One task comes of a submission id for some days at least (``sure_s``). What may have been submitted before that is
  looked for before it is submitted again, and with another id.
- What nobody wants any more ends without Globus's word, if there is none, when any task of it is over its deadline.
- A fault that no trying again mends ends a task at once. Which of its files is to blame is not known: those for one
  directory end; those for several start anew, each directory's in a task of its own.
- What is offered to its owner, and which login is told of, :mod:`hpcserve.core.offers` has the rules of.

Actions are carried out in their order; when one does not succeed, those behind it are not begun, and :meth:`failed` is
told. Times are seconds of one clock, which goes on over restarts. Decides nothing about tokens, and moves no byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpcserve.core.delivery import (
    Action,
    Cancel,
    Delivery,
    Find,
    Forget,
    Limits,
    Look,
    Prepare,
    Progress,
    State,
    Store,
    Trouble,
)
from hpcserve.core.deliverybook import Book
from hpcserve.core.faults import AT_ONCE, HELPS
from hpcserve.core.offers import FIND_S, Offers
from hpcserve.core.shipments import Shipment, batches, named
from hpcserve.errors import Conflict, NotFound, TransferFailed

BY_OWNER = "cancelled by its owner"
REFUSED = ("fatal", "gone")
GONE_S = 15.0
"""A task that is to be cancelled and that Globus does not know for so long has ended."""
APART = "one that travels with it is refused; it starts anew without those for other directories"


class Transfers(Book):
    """All deliveries of a service.

    Args:
        limits: What the site sets.
        deliveries: As they were stored.
        now: The time, which counts for what was offered.

    Attributes:
        offers: What its owners submit themselves.
    """

    def __init__(self, limits: Limits, deliveries: Iterable[Delivery] = (), now: float = 0.0) -> None:
        super().__init__(limits, deliveries, now)
        self.offers = Offers(self)
        self._apart: set[str] = set()

    @property
    def due(self) -> float:
        """When :meth:`tick` has something to do; infinity: when something happens."""
        times = [each.at for each in self._shipments.values() if not each.busy]
        times += [
            each.asked_s + self.limits.batch_wait_s
            for each in self._deliveries.values()
            if each.state == "waiting" and each.id not in self._of and self._has_room(each.owner)
        ]
        return min(times, default=float("inf"))

    def why(self, id: str) -> str:
        """What a delivery waits for, or why it failed; of one whose turn has not come: what goes first."""
        delivery = self._deliveries[id]
        if delivery.why or delivery.state != "waiting" or id in self._of or self._has_room(delivery.owner):
            return delivery.why
        first = [each.offered for each in self._shipments.values() if each.owner == delivery.owner]
        turn = f"it is not its turn yet: {len(first)} of the same owner's transfer tasks go first"
        theirs = f", {sum(first)} of which the owner has to submit: hpcserve transfers --login"
        return turn + theirs if any(first) else turn

    # --- what is wanted ---------------------------------------------------------------------------

    def ask(self, delivery: Delivery) -> list[Action]:
        """A file is to go somewhere. The same file to the same place is one delivery, unless that has failed."""
        known = self._deliveries.get(delivery.id)
        if known is not None and known.state not in ("failed", "cancelled"):
            return []
        self._deliveries.pop(delivery.id, None)  # it queues up anew
        self._deliveries[delivery.id] = delivery
        return [Store((delivery,))]

    def cancel(self, id: str, now: float) -> list[Action]:
        """A delivery is not wanted any more. Others that travel with it start anew.

        Raises:
            NotFound: There is no such delivery.
            TransferFailed: It has ended.
        """
        delivery = self._deliveries.get(id)
        if delivery is None:
            raise NotFound(f"no transfer {id}; see: hpcserve transfers")
        if delivery.ended:
            raise TransferFailed(f"transfer {id} has {delivery.state} already")
        number = self._of.get(id)
        if number is None:
            return [self.change([id], state="cancelled", why=BY_OWNER, ended_s=now)]
        shipment = self._shipments[number]
        shipment.at = now
        stored = self.change([id], state="cancelling", why=BY_OWNER, whatever=True)
        if not shipment.busy and not shipment.unsure and not shipment.task:
            return self._leave(number, now)
        return [stored]

    def reported(self, id: str, submission: str, task: str, now: float) -> list[Action]:
        """The owner of a delivery has submitted what it travels in with this id, as this task; that was verified.

        Raises:
            Conflict: It is too late: that is not wanted any more, or is submitted with another id.
        """
        delivery, shipment = self._deliveries[id], self.shipment_of(id)
        if delivery.task == task:
            return []
        if shipment is None or shipment.submission != submission or shipment.task:
            raise Conflict(f"transfer {id} is {delivery.state}, and task {task} of it is not followed; cancel that")
        shipment.reported = task
        return [] if shipment.busy else self.submitted(self._of[id], task, now)

    def withdraw(self, id: str) -> None:
        """A delivery that was asked for could not be stored: it never was."""
        if id not in self._of:
            self._deliveries.pop(id, None)

    def logged_in(self, owner: str, now: float) -> None:
        """An owner has logged in: what waits for that is tried at once."""
        for each in self._shipments.values():
            if each.owner == owner:
                each.at = min(each.at, now)
                each.pause_s = 0.0

    # --- time passes ------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """What is to be done now."""
        actions = self._give_up(now)
        for number, shipment in list(self._shipments.items()):
            if shipment.busy or shipment.at > now:
                continue
            is_its_owners = not shipment.task and self.offers.waits_for_owner(shipment)
            looked_for = not shipment.task and self.is_looked_for(shipment, now)
            if is_its_owners and not shipment.unsure and not looked_for:
                shipment.at = self.old_at(shipment)
                continue
            shipment.busy, shipment.finding = True, False
            if not shipment.submission:
                actions.append(Prepare(number, shipment.owner))
            elif looked_for or is_its_owners:
                shipment.finding = True
                actions.append(Find(number, shipment.owner, shipment.submission))
            elif not shipment.task:
                actions += self.order(number)
            elif not shipment.cancelled and self.wants_cancel(shipment):
                actions.append(Cancel(number, shipment.owner, shipment.task))
            else:
                actions.append(Look(number, shipment.owner, shipment.task))
        waiting = [each for each in self._deliveries.values() if each.state == "waiting" and each.id not in self._of]
        for members in batches(waiting, self._alone, self._has_room, self.limits, now):
            number = self._ship(members)
            self._shipments[number].busy = True
            actions.append(Prepare(number, members[0].owner))
        actions += self._forget(now)
        return actions

    def _give_up(self, now: float) -> list[Action]:
        """What was not submitted for too long is not submitted any more."""
        old = [
            each
            for each in self._deliveries.values()
            if each.state == "waiting" and each.asked_s + self.limits.give_up_s <= now
        ]
        over = [each.id for each in old if each.id not in self._of or not self._shipments[self._of[each.id]].busy]
        for id in over:
            self._take_out(id)
            why = self._deliveries[id].why or "it was not its turn in time"
            self.change([id], state="failed", why=why, ended_s=now)
        return [Store(tuple(self._deliveries[id] for id in over))] if over else []

    def _forget(self, now: float) -> list[Action]:
        over = [
            each.id
            for each in self._deliveries.values()
            if each.ended_s is not None and each.ended_s + self.limits.forget_s < now
        ]
        return self._forgotten(over)

    def discarded(self, keys: Iterable[tuple[str, str]]) -> list[Action]:
        """Results, by owner and name, are not wanted any more, and gone: nor is what was not delivered of them."""
        gone = set(keys)
        undelivered = [each for each in self._deliveries.values() if each.ended and each.state != "succeeded"]
        return self._forgotten([each.id for each in undelivered if (each.owner, each.name) in gone])

    def _forgotten(self, over: list[str]) -> list[Action]:
        for id in over:
            del self._deliveries[id]
            self._apart.discard(id)
        return [Forget(tuple(over))] if over else []

    def _has_room(self, owner: str, begun: int = 0) -> bool:
        active = sum(each.owner == owner for each in self._shipments.values())
        return active + begun < self.limits.tasks_per_owner

    # --- what came of an action -------------------------------------------------------------------

    def prepared(self, number: int, submission: str, now: float) -> list[Action]:
        """Globus has given a submission id: it is stored, then used."""
        shipment = self._shipments[number]
        if not shipment.stale:  # else nothing is better yet
            shipment.went_well()
        left = self._leave(number, now)
        if not shipment.ids:
            return left
        shipment.busy, shipment.submission, shipment.since = True, submission, now
        self.change(shipment.ids, submission=submission, state="prepared", why="")
        return [*left, *self.order(number)]

    def submitted(self, number: int, task: str, now: float) -> list[Action]:
        """Globus has taken the task, now or before."""
        shipment = self._shipments[number]
        shipment.went_well()
        self.offers.went_through(shipment)
        shipment.task, shipment.at, shipment.busy = task, now, False
        return [self.change(shipment.ids, task=task, state="active", why="")]

    def found(self, number: int, task: str, now: float) -> list[Action]:
        """Globus has told which task was submitted; empty: none."""
        shipment = self._shipments[number]
        task = task or shipment.reported
        if task:
            return self.submitted(number, task, now)
        if now < max(shipment.handed_until, shipment.unanswered + FIND_S) or (
            self.offers.waits_for_owner(shipment) and not self.is_looked_for(shipment, now)
        ):
            last = max(shipment.handed_until, shipment.since, shipment.unanswered)
            shipment.busy, shipment.unsure = False, now < last + FIND_S
            shipment.pause(now, 0.0, self.limits)
            return []
        shipment.busy = shipment.unsure = False
        lost, shipment.lost, shipment.at = shipment.lost, None, now
        left = self._leave(number, now)
        if not shipment.ids:
            return left
        if lost is not None and lost.kind == "fatal":
            return [*left, *self._end(number, "failed", lost.why, now)]
        return [*left, self._anew(shipment)]

    def looked(self, number: int, progress: Progress, now: float, login: dict[str, Any] | None = None) -> list[Action]:
        """Globus has told of the task. ``login``: which one it waits for where it is INACTIVE."""
        shipment = self._shipments[number]
        shipment.busy, shipment.login = False, login
        moved = shipment.progress is None or progress.size_bytes > shipment.progress.size_bytes
        shipment.progress = progress
        if progress.status == "SUCCEEDED":
            return self._end(number, "succeeded", "", now)
        if progress.status == "FAILED":
            return self._over(number, progress, now)
        ends = self.wants_cancel(shipment)
        if progress.fault in AT_ONCE and progress.status == "ACTIVE" and not ends:
            shipment.at = now
            return [self._refused(shipment, progress)]
        in_all_bytes = sum(self._deliveries[each].size_bytes for each in shipment.ids)
        bearing, shipment.bad_since = shipment.bearing, None
        faulty = bearing.looked(progress, now, in_all_bytes)
        over = float("inf") if bearing.since is None else bearing.since + self.limits.faults_s
        if faulty and bearing.last is not None and now >= over and not ends:
            doomed = self.change(shipment.ids, state="cancelling", why=_words(bearing.last))
            shipment.at = now
            return [doomed]
        shipment.pause(now, 0.0, self.limits, anew=moved)
        if now < over:  # what was told is kept
            shipment.at = min(shipment.at, over)
        inactive = progress.status == "INACTIVE"
        why = f"{progress.fault}: {progress.details}" if progress.fault else progress.details
        if inactive:
            why = f"{progress.details or 'credentials have expired'}; log in again: hpcserve transfers --login"
        changes = self.change(shipment.ids, state="inactive" if inactive else "active", why=why)
        return [changes] if changes.deliveries else []

    def _refused(self, shipment: Shipment, progress: Progress) -> Store:
        """No trying again mends it: the task is cancelled, if it has not failed."""
        why = _words(progress)
        if len({self._deliveries[each].target.directory for each in shipment.ids}) > 1:
            why = APART
        return self.change(shipment.ids, state="cancelling", why=why)

    def cancelled(self, number: int, now: float) -> list[Action]:
        """Globus was told to cancel the task: it is looked at until that has ended."""
        shipment = self._shipments[number]
        shipment.cancelled, shipment.busy, shipment.at = True, False, now
        return []

    def failed(self, number: int, trouble: Trouble, now: float) -> list[Action]:
        """A step did not succeed."""
        shipment = self._shipments[number]
        shipment.busy = False
        if shipment.reported and not shipment.task:
            return self.submitted(number, shipment.reported, now)
        if shipment.submission and not shipment.finding and not shipment.task:
            # What is refused was not taken the time before, either: then it would be known.
            shipment.unanswered = now if trouble.kind == "again" else float("-inf")
        if shipment.finding and shipment.offered and trouble.kind != "login":
            trouble = trouble._replace(kind="again")  # that says nothing of the offer
        elif shipment.submission and trouble.kind == "again":
            shipment.unsure = True
        if (trouble.kind == "login" or shipment.offered) and not shipment.task:
            shipment.bad_since = None  # that is an answer: what goes wrong after the login has only begun
        elif shipment.bad_since is None and (not shipment.task or trouble.kind in REFUSED):
            shipment.bad_since = now
        shipment.pause(now, trouble.retry_after_s, self.limits)
        if self._is_unwanted_too_long(shipment, now):
            return self._over(number, Progress("FAILED", details=trouble.why, cancelled=True), now)
        if shipment.task:
            return self._task_failed(number, trouble, now)
        left = [] if shipment.unsure else self._leave(number, now)
        return [*left, *self._failed(number, trouble, now)] if shipment.ids else left

    def _task_failed(self, number: int, trouble: Trouble, now: float) -> list[Action]:
        shipment = self._shipments[number]
        since = now if shipment.bad_since is None else shipment.bad_since
        if trouble.kind == "gone" and self.wants_cancel(shipment) and now - since >= GONE_S:
            return self._over(number, Progress("FAILED", details=trouble.why, cancelled=True), now)
        too_long = shipment.is_bad_too_long(now, self.limits)
        if (trouble.kind in REFUSED and too_long) or self.has_ended(shipment, now):
            return self._end(number, "failed", trouble.why, now)
        return self.offers.wait(shipment, trouble)

    def _failed(self, number: int, trouble: Trouble, now: float) -> list[Action]:
        shipment, too_long = self._shipments[number], self._shipments[number].is_bad_too_long(now, self.limits)
        if shipment.lost is not None:
            over = trouble.kind in REFUSED and self.has_ended_since(shipment.bad_since, now)
            if over or self.has_ended(shipment, now):
                return self._end(number, "failed", shipment.lost.why, now)
            return self.offers.wait(shipment, trouble)
        if trouble.kind in ("again", "stale") and too_long:
            trouble = trouble._replace(kind="fatal")
        elif trouble.kind != "fatal" and shipment.submission and self.is_old(shipment, now):
            trouble = trouble._replace(kind="stale")  # only some of it may be too old: the others start anew
        if trouble.kind in ("fatal", "stale") and shipment.unsure:
            shipment.lost = trouble
        elif trouble.kind == "fatal":
            return self._end(number, "failed", trouble.why, now)
        elif trouble.kind == "stale":
            shipment.stale = True
            return [self._anew(shipment, trouble.why)]
        return self._wait(shipment, trouble)

    def _wait(self, shipment: Shipment, trouble: Trouble) -> list[Action]:
        """What is offered is so to one place: it starts anew, as soon as it is sure that it was not submitted."""
        waiting = self.offers.wait(shipment, trouble)
        if not shipment.offered or not self._is_mixed(shipment):
            return waiting
        if not shipment.unsure:
            return [*waiting, self._anew(shipment)]
        shipment.lost, shipment.login = trouble._replace(kind="stale"), None
        return waiting

    def _anew(self, shipment: Shipment, why: str | None = None) -> Store:
        """What was not submitted is, with another id; what does not belong together any more, each by itself."""
        shipment.submission, shipment.offered = "", False
        if self._is_mixed(shipment):
            self._drop(self._of[shipment.ids[0]])
        return self.change(shipment.ids, state="waiting", submission="", why=why)

    def _alone(self, each: Delivery) -> str:
        """What has to be the same of all that a delivery travels with; empty: nothing."""
        if self.offers.is_closed(each):
            return named(each)
        return each.target.directory if each.id in self._apart else ""

    def _is_mixed(self, shipment: Shipment) -> bool:
        return len({self._alone(self._deliveries[each]) for each in shipment.ids}) > 1

    # --- how --------------------------------------------------------------------------------------

    def _over(self, number: int, progress: Progress, now: float) -> list[Action]:
        """The task ended without delivering. Those of it that nobody gave up start anew if it was for others' sake."""
        shipment = self._shipments[number]
        why = _words(progress)
        if progress.fault in AT_ONCE and not progress.cancelled:
            self._refused(shipment, progress)
        given_up = [each for each in shipment.ids if self._deliveries[each].state == "cancelling"]
        if not given_up:
            return self._end(number, "cancelled" if progress.cancelled else "failed", why, now)
        apart = {each for each in given_up if self._deliveries[each].why == APART}
        self._apart |= apart
        rest = [each for each in shipment.ids if each in apart or each not in given_up]
        stored = [self.change([each], state=self._fate(each), ended_s=now) for each in given_up if each not in apart]
        again = self.change(rest, state="waiting", submission="", task="", why="", whatever=True)
        self._drop(number)
        return [Store(tuple(each for store in (*stored, again) for each in store.deliveries))]

    def _fate(self, id: str) -> State:
        return "cancelled" if self._deliveries[id].why == BY_OWNER else "failed"

    def _is_unwanted_too_long(self, shipment: Shipment, now: float) -> bool:
        """Whether any task of what is to be cancelled is over its deadline. A failed step begins to count."""
        if not self.wants_cancel(shipment):
            return False
        if shipment.unwanted_since is None:
            shipment.unwanted_since = now
        return self.has_ended_since(shipment.unwanted_since, now)


def _words(progress: Progress) -> str:
    """Why a task ended, or is ended, and what helps."""
    why = ": ".join(each for each in ("Globus Transfer", progress.fault, progress.details) if each)
    return "; ".join(each for each in (why, HELPS.get(progress.fault)) if each)
