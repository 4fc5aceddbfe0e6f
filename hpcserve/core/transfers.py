"""How staged results reach their owners' collections: which transfer task is submitted when, and what became of it.

A **delivery** is one file and where it is to go. Deliveries of one owner between the same two collections travel in one
transfer task, here a **shipment**. The rules:

- A submission id is asked for, and *stored*, before anything is submitted with it. Whoever restarts submits with the
  stored id again, for which Globus has one task, however often it is said: never two tasks, and none forgotten.
- An owner has so many tasks at once; further deliveries wait, in the order in which they were asked for.
- What may go well later (429, 502, 503, no connection) is tried again, ever more seldom, and not before the time that
  Globus asks for. What goes wrong for too long fails, in Globus's own words.
- Only a task that SUCCEEDED has delivered. One that is INACTIVE, or whose owner is not logged in, waits for that.
- Which login is wanted is told until a step goes well, or the file is asked for again, which is how a client goes on
  after one. A step that may go well later says nothing about it, and neither does a token that is merely newer.

Actions are carried out in their order; when one does not succeed, those behind it are not begun, and :meth:`failed` is
told. Times are seconds of one clock, which goes on over restarts. Decides nothing about tokens, and moves no byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from hpcserve.core.delivery import (
    ENDED,
    Action,
    Cancel,
    Delivery,
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
from hpcserve.errors import NotFound, TransferFailed

BY_OWNER = "cancelled by its owner"
HOPELESS = frozenset({"PERMISSION_DENIED", "FILE_NOT_FOUND", "QUOTA_EXCEEDED", "VERIFY_CHECKSUM", "ENDPOINT_ERROR"})
"""Faults that Globus would try again until the task's deadline, and that nobody's coming back mends."""


@dataclass
class _Shipment:
    owner: str
    ids: list[str]
    submission: str = ""
    task: str = ""
    at: float = 0.0
    pause_s: float = 0.0
    busy: bool = False
    bad_since: float | None = None
    cancelled: bool = False
    progress: Progress | None = None
    login: dict[str, Any] | None = None


class Transfers:
    """All deliveries of a service.

    Args:
        limits: What the site sets.
        deliveries: As they were stored.
    """

    def __init__(self, limits: Limits, deliveries: Iterable[Delivery] = ()) -> None:
        self._limits = limits
        self._deliveries = {each.id: each for each in sorted(deliveries, key=lambda each: (each.asked_s, each.id))}
        self._shipments: dict[int, _Shipment] = {}
        self._of: dict[str, int] = {}
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
            shipment.submission = submission
            shipment.task = next((each.task for each in members if each.task), "")

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
        return None if shipment is None else shipment.login

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

    def go_on(self, id: str, now: float) -> list[Action]:
        """A delivery was asked for once more, by somebody who has logged in: no login is waited for until one is."""
        number = self._of.get(id)
        if number is None:
            return []
        shipment = self._shipments[number]
        waited, shipment.login = shipment.login is not None, None
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
        stored = self._change([id], state="cancelling", why=BY_OWNER)
        if not shipment.submission and not shipment.busy:
            return self._leave(number, now)
        return [stored]

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
        actions: list[Action] = []
        for number, shipment in list(self._shipments.items()):
            if shipment.busy or shipment.at > now:
                continue
            shipment.busy = True
            if not shipment.submission:
                actions.append(Prepare(number, shipment.owner))
            elif not shipment.task:
                actions += self._submit(number)
            elif not shipment.cancelled and self._wants_cancel(shipment):
                actions.append(Cancel(number, shipment.owner, shipment.task))
            else:
                actions.append(Look(number, shipment.owner, shipment.task))
        for members in self._batches(now):
            number = self._ship(members)
            self._shipments[number].busy = True
            actions.append(Prepare(number, members[0].owner))
        actions += self._forget(now)
        return actions

    def _forget(self, now: float) -> list[Action]:
        over = [
            each.id
            for each in self._deliveries.values()
            if each.ended_s is not None and each.ended_s + self._limits.forget_s < now
        ]
        for id in over:
            del self._deliveries[id]
        return [Forget(tuple(over))] if over else []

    def _batches(self, now: float) -> list[list[Delivery]]:
        """The shipments that may begin now."""
        lines: dict[tuple[str, str, str], list[Delivery]] = {}
        for each in self._deliveries.values():
            if each.state == "waiting" and each.id not in self._of:
                lines.setdefault((each.owner, each.source.collection, each.target.collection), []).append(each)
        begun: dict[str, int] = {}
        chosen = []
        for (owner, _, _), line in sorted(lines.items(), key=lambda item: item[1][0].asked_s):
            rest = line
            while rest and self._has_room(owner, begun.get(owner, 0)):
                batch = self._first(rest)
                full = len(batch) < len(rest) or len(batch) >= self._limits.batch_files
                if not full and batch[0].asked_s + self._limits.batch_wait_s > now:
                    break
                chosen.append(batch)
                begun[owner] = begun.get(owner, 0) + 1
                rest = rest[len(batch) :]
        return chosen

    def _first(self, line: list[Delivery]) -> list[Delivery]:
        """As many from the front as one task takes; no two of them to the same path."""
        batch: list[Delivery] = []
        size, targets = 0, set()
        for each in line[: self._limits.batch_files]:
            size += each.size_bytes
            if batch and (size > self._limits.batch_bytes or each.target in targets):
                break
            targets.add(each.target)
            batch.append(each)
        return batch

    def _has_room(self, owner: str, begun: int = 0) -> bool:
        active = sum(each.owner == owner for each in self._shipments.values())
        return active + begun < self._limits.tasks_per_owner

    # --- what came of an action -------------------------------------------------------------------

    def prepared(self, number: int, submission: str, now: float) -> list[Action]:
        """Globus has given a submission id: it is stored, then used."""
        shipment = self._shipments[number]
        self._went_well(shipment)
        left = self._leave(number, now)
        if not shipment.ids:
            return left
        shipment.busy, shipment.submission = True, submission
        self._change(shipment.ids, submission=submission, state="prepared", why="")
        return [*left, *self._submit(number)]

    def submitted(self, number: int, task: str, now: float) -> list[Action]:
        """Globus has taken the task, now or before."""
        shipment = self._shipments[number]
        self._went_well(shipment)
        shipment.task, shipment.at, shipment.busy = task, now, False
        return [self._change(shipment.ids, task=task, state="active", why="")]

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
        faulty = progress.fault in HOPELESS
        if faulty and shipment.bad_since is not None and now - shipment.bad_since >= self._limits.faults_s:
            why = f"Globus Transfer: {progress.fault}: {progress.details}"
            doomed = self._change(shipment.ids, state="cancelling", why=why)
            shipment.at = now
            return [doomed]
        shipment.bad_since = (shipment.bad_since if shipment.bad_since is not None else now) if faulty else None
        self._pause(shipment, now, 0.0, anew=moved)
        inactive = progress.status == "INACTIVE"
        why = f"{progress.fault}: {progress.details}" if progress.fault else progress.details
        if inactive:
            why = f"log in again: hpcserve transfers --login ({progress.details or 'credentials have expired'})"
        changes = self._change(shipment.ids, state="inactive" if inactive else "active", why=why)
        return [changes] if changes.deliveries else []

    def cancelled(self, number: int, now: float) -> list[Action]:
        """Globus was told to cancel the task: it is looked at until that has ended."""
        shipment = self._shipments[number]
        shipment.cancelled, shipment.busy, shipment.at = True, False, now
        return []

    def failed(self, number: int, trouble: Trouble, now: float) -> list[Action]:
        """A step did not succeed."""
        shipment = self._shipments[number]
        shipment.busy = False
        left = [] if shipment.submission else self._leave(number, now)
        return [*left, *self._failed(number, trouble, now)] if shipment.ids else left

    def _failed(self, number: int, trouble: Trouble, now: float) -> list[Action]:
        shipment = self._shipments[number]
        oldest = min(self._deliveries[each].asked_s for each in shipment.ids)
        if trouble.kind == "fatal" or now - oldest >= self._limits.give_up_s:
            return self._end(number, "failed", trouble.why, now)
        if trouble.kind == "stale":
            shipment.submission, shipment.at = "", now
            return [self._change(shipment.ids, state="waiting", submission="")]
        shipment.bad_since = now if shipment.bad_since is None else shipment.bad_since
        if trouble.kind == "again" and now - shipment.bad_since >= self._limits.faults_s and not shipment.task:
            return self._end(number, "failed", trouble.why, now)
        self._pause(shipment, now, trouble.retry_after_s)
        if trouble.kind == "login":
            shipment.login = trouble.detail
        state: State | None = "inactive" if trouble.kind == "login" and shipment.task else None
        changes = self._change(shipment.ids, state=state, why=trouble.why)
        return [changes] if changes.deliveries else []

    # --- how --------------------------------------------------------------------------------------

    def _over(self, number: int, progress: Progress, now: float) -> list[Action]:
        """The task ended without delivering. Those of it that nobody gave up start anew if it was for others' sake."""
        shipment = self._shipments[number]
        why = ": ".join(each for each in ("Globus Transfer", progress.fault, progress.details) if each)
        given_up = [each for each in shipment.ids if self._deliveries[each].state == "cancelling"]
        if not given_up:
            return self._end(number, "cancelled" if progress.cancelled else "failed", why, now)
        rest = [each for each in shipment.ids if each not in given_up]
        stored = [self._change([each], state=self._fate(each), ended_s=now) for each in given_up]
        again = self._change(rest, state="waiting", submission="", task="", why="")
        self._drop(number)
        return [Store(tuple(each for store in (*stored, again) for each in store.deliveries))]

    def _fate(self, id: str) -> State:
        return "cancelled" if self._deliveries[id].why == BY_OWNER else "failed"

    def _leave(self, number: int, now: float) -> list[Action]:
        """Those of a shipment that was not submitted whose owner does not want them any more."""
        shipment = self._shipments[number]
        gone = [each for each in shipment.ids if self._deliveries[each].state == "cancelling"]
        for each in gone:
            shipment.ids.remove(each)
            del self._of[each]
        stored = self._change(gone, state="cancelled", ended_s=now)
        if not shipment.ids:
            del self._shipments[number]
        return [stored] if gone else []

    def _end(self, number: int, state: State, why: str, now: float) -> list[Action]:
        ended = self._change(self._shipments[number].ids, state=state, why=why, ended_s=now, whatever=True)
        self._drop(number)
        return [ended]

    def _wants_cancel(self, shipment: _Shipment) -> bool:
        return any(self._deliveries[each].state == "cancelling" for each in shipment.ids)

    def _submit(self, number: int) -> list[Action]:
        """Stored each time that it is said: the last time may not have succeeded in that."""
        shipment = self._shipments[number]
        members = tuple(self._deliveries[each] for each in shipment.ids)
        return [Store(members), Submit(number, shipment.owner, shipment.submission, members)]

    def _ship(self, members: list[Delivery]) -> int:
        self._last += 1
        self._shipments[self._last] = _Shipment(members[0].owner, [each.id for each in members])
        for each in members:
            self._of[each.id] = self._last
        return self._last

    def _drop(self, number: int) -> None:
        for each in self._shipments.pop(number).ids:
            del self._of[each]

    def _went_well(self, shipment: _Shipment) -> None:
        shipment.pause_s, shipment.bad_since, shipment.login = 0.0, None, None

    def _pause(self, shipment: _Shipment, now: float, asked_s: float, *, anew: bool = False) -> None:
        limits = self._limits
        longer = 0.0 if anew else shipment.pause_s * 1.5
        shipment.pause_s = min(max(longer, limits.shortest_pause_s), limits.longest_pause_s)
        shipment.at = now + max(shipment.pause_s, asked_s)

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
