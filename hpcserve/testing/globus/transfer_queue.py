"""All tasks: submitted once each, waiting for their turn, tried again, suspended, cancelled, over at their deadline.

Where Globus's own numbers are not published or would make tests slow, they are attributes of :class:`TransferQueue`:
how soon a fault is tried again, and after how many checksum faults a task fails (Transfer itself goes on until the
deadline).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from hpcserve.testing.globus.collections import Caller, Collection
from hpcserve.testing.globus.movers import Mover
from hpcserve.testing.globus.transfer_journal import Journal
from hpcserve.testing.globus.transfer_run import DeleteRun, Fault, TransferRun
from hpcserve.testing.globus.transfer_tasks import (
    CONNECT_FAILED,
    DEADLINE_S,
    ENDPOINT_ERROR,
    GC_NOT_CONNECTED,
    QUEUED,
    VERIFY_CHECKSUM,
    Side,
    Status,
    Task,
)

LOOKS_EVERY_S = 0.05
"""A test tells a collection's trouble without telling the queue."""


class UnknownSubmission(Exception):
    """A submission id was never given out, or too long ago."""


class TooManyPending(Exception):
    """This owner has so many unfinished tasks that no more are taken."""


class _Ended(Exception):
    """The task is over, or the queue is."""


@dataclass
class _Submission:
    owner: str
    issued: float
    task: Task | None = None


class TransferQueue:
    """The tasks, and a thread for each that is unfinished.

    Args:
        mover: What moves the bytes.
        clock: Seconds since 1970.
        who: The person behind an identity, with the groups of the moment.
    """

    def __init__(self, mover: Mover, clock: Callable[[], float], who: Callable[[str], Caller]) -> None:
        self.mover = mover
        self.retry_s = 0.2
        self.checksum_faults = 5
        self.active_per_owner = 3
        self.pending_per_owner = 100
        self.submission_s = 3_600.0
        self._clock = clock
        self._who = who
        self._changed = threading.Condition()
        self._submissions: dict[str, _Submission] = {}
        self._tasks: dict[str, Task] = {}
        self._sides: dict[str, list[Collection]] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._journal: Journal | None = None

    # --- what is asked of it ----------------------------------------------------------------------

    def submission_id(self, owner: str) -> str:
        """A new id, with which one task can be submitted."""
        with self._changed:
            submission = str(uuid.uuid4())
            self._submissions[submission] = _Submission(owner, self._clock())
            return submission

    def submitted(self, owner: str, submission_id: str) -> Task | None:
        """The task that was submitted with this id; None if there is none yet.

        Raises:
            UnknownSubmission: It can be no id of this owner's.
        """
        with self._changed:
            submission = self._submissions.get(submission_id)
            if submission is None or submission.owner != owner:
                raise UnknownSubmission(f"{submission_id!r} is no submission id")
            if submission.task is None and self._clock() - submission.issued > self.submission_s:
                raise UnknownSubmission(f"the submission id {submission_id!r} has expired: ask for a new one")
            return submission.task

    def submit(
        self, owner: Caller, document: dict[str, Any], sides: list[Collection], deadline: float | None = None
    ) -> tuple[Task, bool]:
        """Take a task on, once for each submission id.

        Returns:
            The task, and whether it is a new one.

        Raises:
            UnknownSubmission: See :meth:`submitted`.
            TooManyPending: The owner has to wait for others first.
        """
        with self._changed:
            known = self.submitted(owner.identity, document["submission_id"])
            if known is not None:
                return known, False
            pending = [task for task in self._tasks.values() if task.owner == owner.identity and task.unfinished]
            if len(pending) >= self.pending_per_owner:
                raise TooManyPending(f"{owner.username} has {len(pending)} unfinished tasks: wait for some of them")
            now = self._clock()
            shown = [Side(side.id, side.name) for side in sides]
            task = Task(
                id=str(uuid.uuid4()),
                owner=owner.identity,
                document=document,
                requested=now,
                deadline=now + DEADLINE_S if deadline is None else deadline,
                source=shown[0],
                destination=shown[1] if len(shown) > 1 else None,
            )
            self._submissions[document["submission_id"]].task = task
            self._tasks[task.id], self._sides[task.id] = task, sides
            self._note()
            self._begin(task, sides)
            return task, True

    def take_up(self, journal: Journal, side: Callable[[str], Collection | None], owners: Container[str]) -> None:
        """Go on with the tasks of a stand-in that was here before, and note those to come.

        Args:
            journal: Where they are noted.
            side: Gives a collection that is here, by its id.
            owners: Identities that are known here; others' tasks are forgotten.
        """
        with self._changed:
            for task in journal.read():
                if task.owner not in owners:
                    continue
                self._tasks[task.id] = task
                self._submissions[task.document["submission_id"]] = _Submission(task.owner, task.requested, task)
                sides = [side(each.id) for each in (task.source, task.destination) if each is not None]
                self._sides[task.id] = [each for each in sides if each is not None]
                if None in sides:
                    task.fail(ENDPOINT_ERROR, "the stand-in was started again without this collection", self._clock())
                elif task.unfinished:
                    self._begin(task, self._sides[task.id])
            self._journal = journal

    def _begin(self, task: Task, sides: list[Collection]) -> None:
        thread = threading.Thread(target=self._run, args=(task, sides), daemon=True)
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()

    def _note(self) -> None:
        """Write the tasks down as they are; with the lock."""
        if self._journal is not None:
            self._journal.note(list(self._tasks.values()))

    def get(self, task_id: str) -> Task | None:
        """The task with this id."""
        return self._tasks.get(task_id)

    def of(self, owner: str) -> list[Task]:
        """An owner's tasks, the newest first."""
        with self._changed:
            return [task for task in self._tasks.values() if task.owner == owner][::-1]

    def cancel(self, task: Task) -> bool:
        """End a task; False if it had ended."""
        with self._changed:
            cancelled = task.cancel(self._clock())
            self._note()
            self._changed.notify_all()
            return cancelled

    def renew(self, owner: str, issued: float) -> None:
        """The owner came with a token of this time: what waited for a login since before then goes on."""
        with self._changed:
            for task in self._tasks.values():
                if task.owner == owner and task.inactive_since is not None and task.inactive_since < issued:
                    for side in self._sides[task.id]:
                        side.trouble.expired = False
                    self._changed.notify_all()

    def close(self) -> None:
        """Leave every task as it is."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.mover.close()

    # --- a task's thread --------------------------------------------------------------------------

    def _run(self, task: Task, sides: list[Collection]) -> None:
        try:
            self._wait_for_turn(task)
            attempt = self._attempt(task, sides)
            while task.unfinished:
                self._try(task, sides, attempt)
        except _Ended:
            pass
        with self._changed:
            self._note()

    def _attempt(self, task: Task, sides: list[Collection]) -> Callable[[], None]:
        owner = self._who(task.owner)

        def moved(size: int) -> None:
            self._moved(task, sides, size)

        if len(sides) == 1:
            return DeleteRun(task, owner, sides[0], moved).attempt
        source, destination = sides
        return TransferRun(task, owner, source=source, destination=destination, mover=self.mover, moved=moved).attempt

    def _try(self, task: Task, sides: list[Collection], attempt: Callable[[], None]) -> None:
        try:
            self._gate(task, sides)
            attempt()
        except Fault as fault:
            with self._changed:
                self._fault(task, fault)
                self._changed.wait_for(lambda: self._closed or not task.unfinished, self.retry_s)
            return
        except _Ended:
            raise
        except Exception as error:  # noqa: BLE001 (a defect of the stand-in ends the task, so that nobody waits)
            with self._changed:
                task.fail(ENDPOINT_ERROR, f"{type(error).__name__}: {error}", self._clock())
            return
        with self._changed:
            task.succeed(self._clock())
            self._changed.notify_all()

    def _fault(self, task: Task, fault: Fault) -> None:
        now = self._clock()
        task.fault(fault.code, fault.details, now)
        checksums = sum(event.code == VERIFY_CHECKSUM for event in task.events)
        if fault.fatal or checksums >= self.checksum_faults:
            task.fail(fault.code, fault.details, now)
        self._changed.notify_all()

    def _wait_for_turn(self, task: Task) -> None:
        with self._changed:
            while not self._is_turn(task):
                self._check(task)
                self._changed.wait(LOOKS_EVERY_S)
            task.start(self._clock())

    def _is_turn(self, task: Task) -> bool:
        active = [each for each in self._tasks.values() if each.owner == task.owner and each.status is Status.ACTIVE]
        started = [each for each in active if each.nice != QUEUED]
        queued = next((each for each in active if each.nice == QUEUED), None)
        return len(started) < self.active_per_owner and queued is task

    def _moved(self, task: Task, sides: list[Collection], size: int) -> None:
        with self._changed:
            task.bytes_moved += size
            if size:
                task.recover()
        self._gate(task, sides)
        begun = time.monotonic()
        while (left := _seconds(sides, size) - (time.monotonic() - begun)) > 0:
            with self._changed:
                self._changed.wait(min(left, LOOKS_EVERY_S))
            self._gate(task, sides)

    def _gate(self, task: Task, sides: list[Collection]) -> None:
        """Go on when the collections let the task go on.

        Raises:
            Fault: They do not, and it is to be tried again.
            _Ended: There is nothing to go on with.
        """
        with self._changed:
            while True:
                self._check(task)
                for side in sides:
                    _meet(side)
                if any(side.trouble.expired for side in sides):
                    task.suspend(self._clock())
                else:
                    task.resume()
                    if not any(side.trouble.stalled for side in sides):
                        return
                self._changed.wait(LOOKS_EVERY_S)

    def _check(self, task: Task) -> None:
        if task.unfinished and self._clock() >= task.deadline:
            task.expire(self._clock())
        if self._closed or not task.unfinished:
            raise _Ended


def _seconds(sides: list[Collection], size: int) -> float:
    """How long so many bytes take at the speed that the slower side is told to have."""
    rates = [side.trouble.bytes_per_s for side in sides if side.trouble.bytes_per_s is not None]
    return size / min(rates) if rates else 0.0


def _meet(side: Collection) -> None:
    trouble = side.trouble
    if trouble.fatal:
        raise Fault(trouble.fatal, f"{side.name}: told to fail with {trouble.fatal}", fatal=True)
    if trouble.gone:
        raise Fault(CONNECT_FAILED, f"{side.name}: nobody answers")
    if trouble.offline:
        raise Fault(GC_NOT_CONNECTED, f"{side.name}: Globus Connect Personal is not connected")
