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
- What Transfer refuses once more, in the same words, after the login that it wanted, is *offered* to its owner, and so
  is what goes the same way later: his own login may do where the service's token does not. Who submits does so with the
  same id, so that there is one task; the id is not replaced while an owner may be about to. Whether he has, or was
  refused too, he reports; and once he has the id, it is looked for, since nobody knows who was killed when.
- Which login is wanted is told until a step goes well, or the file is asked for again, which is how a client goes on
  after one. A step that may go well later says nothing about it, and neither does a token that is merely newer.

Actions are carried out in their order; when one does not succeed, those behind it are not begun, and :meth:`failed` is
told. Times are seconds of one clock, which goes on over restarts. Decides nothing about tokens, and moves no byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hpcserve.core.delivery import (
    ENDED,
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
    Submit,
    Trouble,
)
from hpcserve.core.faults import AT_ONCE, HELPS, IN_TIME
from hpcserve.core.shipments import Shipment, asked_of, batches
from hpcserve.errors import Conflict, LoginRequired, NotFound, ServiceUnavailable, TransferFailed

BY_OWNER = "cancelled by its owner"
REFUSED = ("fatal", "gone")
GONE_S = 15.0
"""A task that is to be cancelled and that Globus does not know for so long has ended."""
APART = "one that travels with it is refused; it starts anew without those for other directories"


class Transfers:
    """All deliveries of a service.

    Args:
        limits: What the site sets.
        deliveries: As they were stored.
        now: The time, which counts for what was offered.
    """

    def __init__(self, limits: Limits, deliveries: Iterable[Delivery] = (), now: float = 0.0) -> None:
        self._limits = limits
        self._deliveries = {each.id: each for each in sorted(deliveries, key=lambda each: (each.asked_s, each.id))}
        self._shipments: dict[int, Shipment] = {}
        self._of: dict[str, int] = {}
        self._apart: set[str] = set()
        self._closed: set[tuple[str, str, str]] = set()  # to the service's tokens
        self._last = 0
        by_submission: dict[str, list[Delivery]] = {}
        for each in list(self._deliveries.values()):
            if each.submission and not each.ended:
                by_submission.setdefault(each.submission, []).append(each)
            elif each.state == "cancelling":  # nothing was submitted
                self._deliveries[each.id] = replace(each, state="cancelled", ended_s=each.asked_s)
        for submission, members in by_submission.items():
            number = self._ship(members)
            shipment = self._shipments[number]
            shipment.submission, shipment.unsure = submission, True
            shipment.since = max(each.asked_s for each in members)
            shipment.task = next((each.task for each in members if each.task), "")
            if any(each.state in ("offered", "cancelling") for each in members):  # its owner may have the id
                shipment.handed_until = now + limits.hand_s
            if any(each.state == "offered" for each in members):
                shipment.offered = True
                self._closed.add(self._way(shipment))

    # --- what is known ----------------------------------------------------------------------------

    def deliveries(self, owner: str | None = None) -> list[Delivery]:
        """Those of one owner, or of all; in the order in which they were asked for."""
        return [each for each in self._deliveries.values() if owner is None or each.owner == owner]

    def get(self, id: str) -> Delivery | None:
        """One delivery."""
        return self._deliveries.get(id)

    def progress(self, id: str) -> tuple[Progress | None, int, int]:
        """What Globus said last of a delivery's task, of how many bytes and files that is in all."""
        shipment = self._shipments.get(self._of.get(id, 0))
        if shipment is None:
            return None, self._deliveries[id].size_bytes, 1
        return shipment.progress, sum(self._deliveries[each].size_bytes for each in shipment.ids), len(shipment.ids)

    def login(self, id: str) -> dict[str, Any] | None:
        """Which login a delivery waits for, as the ``detail`` of a LoginRequired; None: for none."""
        shipment = self._shipments.get(self._of.get(id, 0))
        if shipment is None:
            return None
        return shipment.lacks.detail if shipment.login is None and shipment.lacks is not None else shipment.login

    def until(self, id: str) -> float | None:
        """Until when it is borne that something is wrong with a delivery; None: nothing is, or nobody knows."""
        shipment = self._shipments.get(self._of.get(id, 0))
        if shipment is None or self._deliveries[id].state in ("inactive", "cancelling"):
            return None
        if shipment.bad_since is not None:
            return shipment.bad_since + self._limits.faults_s
        return shipment.progress.until_s if shipment.progress is not None and shipment.progress.fault else None

    def holds(self, owner: str, name: str) -> bool:
        """Whether a staged file is still to be delivered, and must stay."""
        return any(each.owner == owner and each.name == name and not each.ended for each in self._deliveries.values())

    @property
    def due(self) -> float:
        """When :meth:`tick` has something to do; infinity: when something happens."""
        times = [each.at for each in self._shipments.values() if not each.busy]
        times += [
            each.asked_s + self._limits.batch_wait_s
            for each in self._deliveries.values()
            if each.state == "waiting" and each.id not in self._of and self._has_room(each.owner)
        ]
        return min(times, default=float("inf"))

    # --- what is wanted ---------------------------------------------------------------------------

    def ask(self, delivery: Delivery) -> list[Action]:
        """A file is to go somewhere. The same file to the same place is one delivery, unless that has failed."""
        known = self._deliveries.get(delivery.id)
        if known is not None and known.state not in ("failed", "cancelled"):
            return []
        self._deliveries.pop(delivery.id, None)  # it queues up anew
        self._deliveries[delivery.id] = delivery
        return [Store((delivery,))]

    def go_on(self, id: str, now: float, by: str) -> list[Action]:
        """A delivery was asked for once more, as after a login: none is waited for until one is wanted again.

        ``by``: the login by which its owner is in. The one by which Transfer has refused it already is no new one.
        """
        number = self._of.get(id)
        if number is None:
            return []
        shipment = self._shipments[number]
        if shipment.login is not None and shipment.refused and by != shipment.refused_by:
            shipment.tried.append(asked_of(shipment.login))
        waited, shipment.login, shipment.lacks = shipment.login is not None, None, None
        shipment.at, shipment.pause_s = min(shipment.at, now), 0.0
        ids = [each for each in shipment.ids if waited and self._deliveries[each].state == "inactive"]
        changes = self._change(ids, state="active", why="")
        return [changes] if changes.deliveries else []

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
            return [self._change([id], state="cancelled", why=BY_OWNER, ended_s=now)]
        shipment = self._shipments[number]
        shipment.at = now
        stored = self._change([id], state="cancelling", why=BY_OWNER, whatever=True)
        if not shipment.busy and not shipment.unsure and not shipment.task:
            return self._leave(number, now)
        return [stored]

    def hand_out(self, id: str, now: float) -> tuple[Store, Submit, dict[str, Any]]:
        """The owner of a delivery is about to submit what it travels in; the store is written first.

        The last is the login that Transfer has wanted of the service, as the ``detail`` of a LoginRequired.

        Raises:
            Conflict: It is not, or no longer, for its owner to submit.
            LoginRequired: The service needs a login first, to see what Transfer wants and what became of it.
            ServiceUnavailable: It is being submitted by the service just now.
        """
        number = self._of.get(id, 0)
        shipment = self._shipments.get(number)
        if shipment is None or not shipment.offered or self._is_given_up(shipment, now):
            raise Conflict(f"transfer {id} is {self._deliveries[id].state}, and not its owner's to submit")
        if shipment.login is None and shipment.lacks is not None:
            raise LoginRequired(
                f"transfer {id} is yours to submit, and the service needs a login first ({shipment.lacks.why}): "
                "hpcserve transfers --login",
                detail=shipment.lacks.detail,
            )
        if shipment.login is None or self._is_dated(shipment, now):
            raise ServiceUnavailable(f"transfer {id} is being tried by the service once more", retry_after_s=0.5)
        shipment.unsure, shipment.handed_until = True, now + self._limits.hand_s
        shipment.at, shipment.pause_s = min(shipment.at, now), 0.0
        stored, submit = self._submit(number)
        return stored, submit, shipment.login

    def reported(self, id: str, submission: str, task: str, now: float) -> list[Action]:
        """The owner of a delivery has submitted what it travels in with this id, as this task; that was verified.

        Raises:
            Conflict: It is too late: that is not wanted any more, or is submitted with another id.
        """
        delivery, shipment = self._deliveries[id], self._shipments.get(self._of.get(id, 0))
        if (delivery.submission, delivery.task) == (submission, task):
            return []
        if shipment is None or shipment.submission != submission or shipment.task:
            raise Conflict(f"transfer {id} is {delivery.state}, and task {task} of it is not followed; cancel that")
        shipment.reported = task
        return [] if shipment.busy else self.submitted(self._of[id], task, now)

    def not_submitted(self, id: str, submission: str, trouble: Trouble, now: float) -> list[Action]:
        """Globus has refused this submission to the owner of a delivery, who has no task of it.

        ``trouble`` is ``stale`` or ``fatal``. It is looked for before anything comes of that.
        """
        shipment = self._shipments.get(self._of.get(id, 0))
        if shipment is None or not shipment.offered or shipment.submission != submission or shipment.reported:
            return []
        shipment.lost, shipment.login = trouble, None
        shipment.at, shipment.pause_s = min(shipment.at, now), 0.0
        changes = self._change(shipment.ids, why=trouble.why)
        return [changes] if changes.deliveries else []

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
            is_its_owners = not shipment.task and self._waits_for_owner(shipment)
            looked_for = not shipment.task and self._is_looked_for(shipment, now)
            if is_its_owners and not shipment.unsure and not looked_for:
                shipment.at = self._old_at(shipment)
                continue
            shipment.busy, shipment.finding = True, False
            if not shipment.submission:
                actions.append(Prepare(number, shipment.owner))
            elif looked_for or is_its_owners:
                shipment.finding = True
                actions.append(Find(number, shipment.owner, shipment.submission))
            elif not shipment.task:
                actions += self._submit(number)
            elif not shipment.cancelled and self._wants_cancel(shipment):
                actions.append(Cancel(number, shipment.owner, shipment.task))
            else:
                actions.append(Look(number, shipment.owner, shipment.task))
        waiting = [each for each in self._deliveries.values() if each.state == "waiting" and each.id not in self._of]
        for members in batches(waiting, self._apart, self._has_room, self._limits, now):
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
            if each.state == "waiting" and each.asked_s + self._limits.give_up_s <= now
        ]
        over = [each.id for each in old if each.id not in self._of or not self._shipments[self._of[each.id]].busy]
        for id in over:
            self._take_out(id)
            why = self._deliveries[id].why or "it was not its turn in time"
            self._change([id], state="failed", why=why, ended_s=now)
        return [Store(tuple(self._deliveries[id] for id in over))] if over else []

    def _forget(self, now: float) -> list[Action]:
        over = [
            each.id
            for each in self._deliveries.values()
            if each.ended_s is not None and each.ended_s + self._limits.forget_s < now
        ]
        for id in over:
            del self._deliveries[id]
            self._apart.discard(id)
        return [Forget(tuple(over))] if over else []

    def _has_room(self, owner: str, begun: int = 0) -> bool:
        active = sum(each.owner == owner for each in self._shipments.values())
        return active + begun < self._limits.tasks_per_owner

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
        self._change(shipment.ids, submission=submission, state="prepared", why="")
        return [*left, *self._submit(number)]

    def submitted(self, number: int, task: str, now: float) -> list[Action]:
        """Globus has taken the task, now or before."""
        shipment = self._shipments[number]
        shipment.went_well()
        if not shipment.offered:
            self._closed.discard(self._way(shipment))
        shipment.task, shipment.at, shipment.busy, shipment.offered = task, now, False, False
        return [self._change(shipment.ids, task=task, state="active", why="")]

    def found(self, number: int, task: str, now: float) -> list[Action]:
        """Globus has told which task was submitted; empty: none."""
        shipment = self._shipments[number]
        task = task or shipment.reported
        if task:
            return self.submitted(number, task, now)
        if now < shipment.handed_until or (self._waits_for_owner(shipment) and not self._is_looked_for(shipment, now)):
            shipment.busy = False
            shipment.pause(now, 0.0, self._limits)
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
        ends = self._wants_cancel(shipment)
        if progress.fault in AT_ONCE and progress.status == "ACTIVE" and not ends:
            shipment.at = now
            return [self._refused(shipment, progress)]
        faulty = progress.fault in IN_TIME and not ends
        if faulty and shipment.is_bad_too_long(now, self._limits):
            why = _words(progress)
            doomed = self._change(shipment.ids, state="cancelling", why=why)
            shipment.at = now
            return [doomed]
        shipment.bad_since = (shipment.bad_since if shipment.bad_since is not None else now) if faulty else None
        shipment.pause(now, 0.0, self._limits, anew=moved)
        inactive = progress.status == "INACTIVE"
        why = f"{progress.fault}: {progress.details}" if progress.fault else progress.details
        if inactive:
            why = f"{progress.details or 'credentials have expired'}; log in again: hpcserve transfers --login"
        changes = self._change(shipment.ids, state="inactive" if inactive else "active", why=why)
        return [changes] if changes.deliveries else []

    def _refused(self, shipment: Shipment, progress: Progress) -> Store:
        """No trying again mends it: the task is cancelled, if it has not failed."""
        why = _words(progress)
        if len({self._deliveries[each].target.directory for each in shipment.ids}) > 1:
            why = APART
        return self._change(shipment.ids, state="cancelling", why=why)

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
        if shipment.finding and shipment.offered and trouble.kind != "login":
            trouble = trouble._replace(kind="again")  # that says nothing of the offer
        elif shipment.submission and trouble.kind == "again":
            shipment.unsure = True
        if (trouble.kind == "login" or shipment.offered) and not shipment.task:
            shipment.bad_since = None  # that is an answer: what goes wrong after the login has only begun
        elif shipment.bad_since is None and (not shipment.task or trouble.kind in REFUSED):
            shipment.bad_since = now
        shipment.pause(now, trouble.retry_after_s, self._limits)
        if self._is_unwanted_too_long(shipment, now):
            return self._over(number, Progress("FAILED", details=trouble.why, cancelled=True), now)
        if shipment.task:
            return self._task_failed(number, trouble, now)
        left = [] if shipment.unsure else self._leave(number, now)
        return [*left, *self._failed(number, trouble, now)] if shipment.ids else left

    def _task_failed(self, number: int, trouble: Trouble, now: float) -> list[Action]:
        shipment = self._shipments[number]
        since = now if shipment.bad_since is None else shipment.bad_since
        if trouble.kind == "gone" and self._wants_cancel(shipment) and now - since >= GONE_S:
            return self._over(number, Progress("FAILED", details=trouble.why, cancelled=True), now)
        too_long = shipment.is_bad_too_long(now, self._limits)
        if (trouble.kind in REFUSED and too_long) or self._has_ended(shipment, now):
            return self._end(number, "failed", trouble.why, now)
        return self._wait(shipment, trouble)

    def _failed(self, number: int, trouble: Trouble, now: float) -> list[Action]:
        shipment, too_long = self._shipments[number], self._shipments[number].is_bad_too_long(now, self._limits)
        if shipment.lost is not None:
            over = trouble.kind in REFUSED and self._has_ended_since(shipment.bad_since, now)
            if over or self._has_ended(shipment, now):
                return self._end(number, "failed", shipment.lost.why, now)
            return self._wait(shipment, trouble)
        if trouble.kind in ("again", "stale") and too_long:
            trouble = trouble._replace(kind="fatal")
        elif trouble.kind != "fatal" and shipment.submission and self._is_old(shipment, now):
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
        refused = trouble.by_transfer and bool(shipment.submission) and not shipment.task
        if shipment.offered and not refused:
            if trouble.kind == "login" and shipment.login is None:
                shipment.lacks = trouble
            return []  # what is told is still so
        if trouble.kind == "login":
            if not (refused and shipment.refused and asked_of(trouble.detail) == asked_of(shipment.login)):
                shipment.refused_by = trouble.by
            shipment.login, shipment.refused = trouble.detail, refused
        state: State | None = "inactive" if trouble.kind == "login" and shipment.task else None
        if refused and self._is_its_owners(shipment):
            shipment.offered, state = True, "offered"
        changes = self._change(shipment.ids, state=state, why=trouble.why)
        return [changes] if changes.deliveries else []

    def _is_its_owners(self, shipment: Shipment) -> bool:
        """Whether no login at the service will do for what Transfer has just refused."""
        if asked_of(shipment.login) in shipment.tried:
            self._closed.add(self._way(shipment))
        return self._way(shipment) in self._closed

    def _waits_for_owner(self, shipment: Shipment) -> bool:
        """Whether it is offered, and was refused to the service since that was asked for last."""
        return shipment.offered and shipment.login is not None

    def _way(self, shipment: Shipment) -> tuple[str, str, str]:
        first = self._deliveries[shipment.ids[0]]
        return shipment.owner, first.source.collection, first.target.collection

    def _anew(self, shipment: Shipment, why: str | None = None) -> Store:
        """What was not submitted is, with another id."""
        shipment.submission, shipment.offered = "", False
        return self._change(shipment.ids, state="waiting", submission="", why=why)

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
        stored = [self._change([each], state=self._fate(each), ended_s=now) for each in given_up if each not in apart]
        again = self._change(rest, state="waiting", submission="", task="", why="", whatever=True)
        self._drop(number)
        return [Store(tuple(each for store in (*stored, again) for each in store.deliveries))]

    def _fate(self, id: str) -> State:
        return "cancelled" if self._deliveries[id].why == BY_OWNER else "failed"

    def _leave(self, number: int, now: float) -> list[Action]:
        """Those of a shipment that was not submitted whose owner does not want them any more."""
        shipment = self._shipments[number]
        gone = [each for each in shipment.ids if self._deliveries[each].state == "cancelling"]
        for each in gone:
            self._take_out(each)
        return [self._change(gone, state="cancelled", ended_s=now)] if gone else []

    def _take_out(self, id: str) -> None:
        number = self._of.pop(id, None)
        if number is not None:
            self._shipments[number].ids.remove(id)
            if not self._shipments[number].ids:
                del self._shipments[number]

    def _end(self, number: int, state: State, why: str, now: float) -> list[Action]:
        ended = self._change(self._shipments[number].ids, state=state, why=why, ended_s=now, whatever=True)
        self._drop(number)
        return [ended]

    def _wants_cancel(self, shipment: Shipment) -> bool:
        return any(self._deliveries[each].state == "cancelling" for each in shipment.ids)

    def _is_unwanted_too_long(self, shipment: Shipment, now: float) -> bool:
        """Whether any task of what is to be cancelled is over its deadline. A failed step begins to count."""
        if not self._wants_cancel(shipment):
            return False
        if shipment.unwanted_since is None:
            shipment.unwanted_since = now
        return self._has_ended_since(shipment.unwanted_since, now)

    def _has_ended_since(self, since: float | None, now: float) -> bool:
        """Whether a task that was not submitted later has ended in any case."""
        return since is not None and now - since >= self._limits.hand_s + self._limits.deadline_s

    def _is_looked_for(self, shipment: Shipment, now: float) -> bool:
        """Whether it is not submitted once more, though it may have been submitted."""
        return self._is_given_up(shipment, now) or self._is_dated(shipment, now)

    def _is_given_up(self, shipment: Shipment, now: float) -> bool:
        return shipment.lost is not None or self._wants_cancel(shipment) or self._is_old(shipment, now)

    def _is_dated(self, shipment: Shipment, now: float) -> bool:
        """Whether it may have been submitted so long ago that Globus might make another task of its id."""
        return shipment.unsure and not shipment.task and shipment.since + self._limits.sure_s <= now

    def _is_old(self, shipment: Shipment, now: float) -> bool:
        return self._old_at(shipment) <= now

    def _old_at(self, shipment: Shipment) -> float:
        return min(self._deliveries[each].asked_s for each in shipment.ids) + self._limits.give_up_s

    def _has_ended(self, shipment: Shipment, now: float) -> bool:
        """Whether its task is over its deadline, whenever it was submitted: nothing is that is too old."""
        return self._is_old(shipment, now - self._limits.deadline_s)

    def _submit(self, number: int) -> tuple[Store, Submit]:
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

    def _drop(self, number: int) -> None:
        for each in self._shipments.pop(number).ids:
            del self._of[each]

    def _change(
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


def _words(progress: Progress) -> str:
    """Why a task ended, or is ended, and what helps."""
    why = ": ".join(each for each in ("Globus Transfer", progress.fault, progress.details) if each)
    return "; ".join(each for each in (why, HELPS.get(progress.fault)) if each)
