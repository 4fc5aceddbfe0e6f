"""Brings staged results to the collections of their owners: carries out what :mod:`hpcserve.core.transfers` decides.

Each step runs in a thread, with a token of the owner's; the store is written before a step that it tells of is begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from functools import partial
from typing import Any, Protocol, TypeVar

from hpcserve.core.delivery import (
    Action,
    Cancel,
    Delivery,
    End,
    Find,
    Forget,
    Limits,
    Prepare,
    Step,
    Store,
    Submit,
    Trouble,
)
from hpcserve.core.spelling import shortened
from hpcserve.core.transfers import REFUSED, Transfers
from hpcserve.daemon.controller.outside import Outside
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import Conflict, HpcserveError, LoginRequired, PermissionDenied
from hpcserve.registry.deliveries import DeliveryRow, deliveries, forget_deliveries, put_deliveries
from hpcserve.staging.transfer import Carrier, StepFailed, label_of

_log = logging.getLogger(__name__)

T = TypeVar("T")

WRITTEN_AGAIN_S = 5.0
"""What could not be written down, since the disk was full, is tried again after that."""
STEP_S = 120.0
"""No step takes longer: the SDK gives up before."""
NOT_IN_FORCE = "the access rule that lets you at your result is not in force yet"
EXPIRED = Trouble("login", "your credentials for the transfer have expired")


class Purse(Protocol):
    """Where tokens for Transfer come from."""

    async def token(self, owner: str) -> str:
        """An access token; raises LoginRequired or a retryable error."""

    def digest(self, owner: str) -> str:
        """The SHA-256 of the token by which the owner was in last."""

    def refused(self, owner: str, trouble: Trouble) -> Trouble:
        """Transfer wants another login; returns which one."""

    async def done(self, owner: str, is_idle: Callable[[], bool]) -> None:
        """No more tokens are needed for the owner at present, if still nothing of the owner's is under way."""

    def keepers(self) -> list[str]:
        """Those for whom :meth:`done` has something to do."""


class Doorkeeper(Protocol):
    """Lets owners at their own files on collections where that needs a rule."""

    async def let_in(self, owner: str, collection: str) -> bool:
        """The owner can read its staged results on this collection from now on; whether that took a rule."""

    async def let_out(self, owner: str, is_idle: Callable[[], bool]) -> None:
        """The owner's rules are taken back, if still nothing of the owner's is under way."""


class Deliveries:
    """All deliveries of a service.

    Args:
        limits: What the site sets.
        storage: Where they are written down.
        wallet: Where tokens come from.
        doors: What lets owners at their files.
        outside: What asks Globus.
        carrier: Makes, of a token, what speaks to Globus.
        delivered: Told of each file that has arrived.
    """

    def __init__(
        self,
        limits: Limits,
        storage: Storage,
        wallet: Purse,
        doors: Doorkeeper,
        outside: Outside,
        *,
        carrier: Callable[[str], Carrier],
        delivered: Callable[[Delivery], Awaitable[object]],
    ) -> None:
        self._limits = limits
        self._storage = storage
        self._wallet = wallet
        self._doors = doors
        self._outside = outside
        self._carrier = carrier
        self._delivered = delivered
        self.book = Transfers(limits)
        self._changed = asyncio.Event()
        self._owed: set[str] = set()
        self._over: set[str] = set()
        self._write_again_at = 0.0
        # Seconds since 1970 that go on evenly, whoever sets the clock.
        self._since_1970 = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since 1970, by a clock that nobody sets."""
        return self._since_1970 + time.monotonic()

    async def open(self, seen: Callable[[str, str], object]) -> None:
        """Takes up what was asked for before. ``seen`` is told by which token each owner was in last."""
        rows = await self._storage.do(deliveries)
        for row in rows:
            seen(row.owner, row.token_sha256)
        self.book = Transfers(self._limits, [row.delivery for row in rows], self.now())

    async def ask(self, wanted: Iterable[Delivery]) -> None:
        """Files are to go somewhere.

        Raises:
            HpcserveError: It cannot be written down, and none is brought there.
        """
        new, again = [], []
        for each in wanted:
            if self.book.ask(each):
                new.append(each)
            else:
                again += self.book.offers.go_on(each.id, self.now(), self._wallet.digest(each.owner))
        try:
            await self._store(Store(tuple(new)))
        except HpcserveError:
            for each in new:
                self.book.withdraw(each.id)
            raise
        await self._carry_out(again)
        self._changed.set()

    async def cancel(self, id: str) -> None:
        """A delivery is not wanted any more.

        Raises:
            NotFound: There is none.
            TransferFailed: It has ended.
        """
        await self._carry_out(self.book.cancel(id, self.now()))
        self._changed.set()

    async def discarded(self, keys: Iterable[tuple[str, str]]) -> None:
        """Results, by owner and name, were discarded: what was not delivered of them is not shown any more."""
        await self._carry_out(self.book.discarded(keys))

    def look(self, id: str) -> tuple[Submit, dict[str, Any]]:
        """What the owner of a delivery would be handed to submit; see :meth:`hand_out`.

        Raises:
            HpcserveError: As there.
        """
        return self.book.offers.look(id, self.now())

    async def hand_out(self, id: str) -> tuple[Submit, dict[str, Any]]:
        """What the owner of a delivery is to submit himself, with a login of his own; and which one the service lacks.

        Raises:
            Conflict: It is not for its owner to submit.
            LoginRequired: The service needs a login first.
            ServiceUnavailable: Not yet.
            StepFailed: Globus does not let the owner at the files.
            HpcserveError: It cannot be written down.
        """
        stored, submit, login = self.book.offers.hand_out(id, self.now())
        self._changed.set()
        await self._store(stored)
        await self._let_in(submit)
        return submit, login

    async def reported(self, id: str, submission: str, task: str) -> None:
        """The owner of a delivery says that he has submitted it with this id, as this task: he has, as his token sees.

        Raises:
            PermissionDenied: The task is not his, or not of this submission.
            Conflict: What was submitted is not wanted any more.
            HpcserveError: There is no token of his.
            StepFailed: Globus gives no answer.
        """
        delivery = self.book.get(id)
        if delivery is None:
            raise Conflict(f"transfer {id} is not known any more, and task {task} of it is not followed; cancel that")
        if (delivery.submission, delivery.task) != (submission, task):
            token = await self._wallet.token(delivery.owner)
            try:
                told = await self._said(token, lambda carrier: carrier.look(task))
            except StepFailed as error:
                if error.trouble.kind not in REFUSED:
                    raise
                raise PermissionDenied(f"no task {shortened(task)} of yours is known: {error.trouble.why}") from error
            if told.label != label_of(submission):
                raise PermissionDenied(f"task {shortened(task)} is not that of transfer {id}")
            await self._carry_out(self.book.reported(id, submission, task, self.now()))
        self._changed.set()

    async def not_submitted(self, id: str, submission: str, trouble: Trouble) -> None:
        """Globus has refused this submission to the owner of a delivery, too."""
        await self._carry_out(self.book.offers.not_submitted(id, submission, trouble, self.now()))
        self._changed.set()

    def logged_in(self, owner: str) -> None:
        """An owner came with another token."""
        self.book.logged_in(owner, self.now())
        self._changed.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as steps:
            steps.create_task(self._tidy())
            while True:
                await self._make_up()
                for step in await self._carry_out(self.book.tick(self.now())):
                    steps.create_task(self._take(step))
                while self._over:
                    steps.create_task(self._settle_soon(self._over.pop()))
                self._changed.clear()
                left_s = min(self.book.due, self._write_again_at if self._owed else self.book.due) - self.now()
                if left_s > 0:
                    await self._wait(left_s)

    async def _wait(self, left_s: float) -> None:
        try:
            async with asyncio.timeout(min(left_s, 3600.0)):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _take(self, step: Step) -> None:
        """Takes a step and all that follow from it."""
        steps = [step]
        while steps:
            actions = await self._outcome(steps.pop(0))
            steps += await self._carry_out(actions)
        self._changed.set()

    async def _outcome(self, step: Step) -> list[Action]:
        digest = self._wallet.digest(step.owner)
        try:
            return await self._try(step)
        except StepFailed as error:
            trouble = error.trouble
            if trouble.kind == "login":
                trouble = self._wallet.refused(step.owner, trouble)._replace(by=digest)
        except LoginRequired as error:
            trouble = Trouble("login", error.message, detail=error.detail)
        except HpcserveError as error:
            trouble = Trouble("again", error.message, error.retry_after_s or 0.0)
        except TimeoutError:
            trouble = Trouble("again", "Globus Transfer gives no answer in time")
        if trouble.kind == "login" and self._wallet.digest(step.owner) != digest:
            trouble = Trouble("again", "it is tried anew with the login that has come meanwhile")
        return self.book.failed(step.shipment, trouble, self.now())

    async def _try(self, step: Step) -> list[Action]:
        token = await self._wallet.token(step.owner)
        async with asyncio.timeout(STEP_S):
            if isinstance(step, Prepare):
                submission = await self._said(token, lambda carrier: carrier.submission_id())
                return self.book.prepared(step.shipment, submission, self.now())
            if isinstance(step, Submit):
                items = [(each.source, each.target) for each in step.deliveries]
                if await self._let_in(step):
                    await self._said(token, lambda carrier: _wait_for_rule(carrier, items[0][0]))
                task = await self._said(token, lambda carrier: carrier.submit(step.submission, items))
                _log.info("transfer task %s of %s: %d files", task, step.owner, len(items))
                return self.book.submitted(step.shipment, task, self.now())
            if isinstance(step, Find):
                task = await self._said(token, lambda carrier: carrier.find(step.submission))
                return self.book.found(step.shipment, task, self.now())
            if isinstance(step, Cancel):
                await self._said(token, lambda carrier: carrier.cancel(step.task))
                return self.book.cancelled(step.shipment, self.now())
            progress = await self._said(token, lambda carrier: carrier.look(step.task))
            login = None
            if progress.status == "INACTIVE":  # a newer token may do already
                login = self._wallet.refused(step.owner, EXPIRED).detail
            return self.book.looked(step.shipment, progress, self.now(), login)

    async def _let_in(self, step: Submit) -> bool:
        """The owner can read the files, which are on one collection and in one directory; whether by a rule."""
        return await self._doors.let_in(step.owner, step.deliveries[0].source.collection)

    async def _said(self, token: str, say: Callable[[Carrier], T]) -> T:
        def said() -> T:
            with closing(self._carrier(token)) as carrier:
                return say(carrier)

        return await self._outside.do(said)

    async def _carry_out(self, actions: Iterable[Action]) -> list[Step]:
        """Writes down what is to be, and returns the steps; those behind what cannot be written are not taken."""
        steps: list[Step] = []
        trouble: Trouble | None = None
        for action in actions:
            if isinstance(action, Store | Forget):
                try:
                    await self._write(action)
                except HpcserveError as error:
                    _log.warning("deliveries are not written down: %s", error)
                    trouble = Trouble("again", error.message, error.retry_after_s or 0.0)
            elif trouble is not None:
                self.book.failed(action.shipment, trouble, self.now())
            else:
                steps.append(action)
        return steps

    async def _write(self, action: Store | Forget) -> None:
        if isinstance(action, Forget):
            await self._storage.do(forget_deliveries, action.ids)
            return
        ids = {each.id for each in action.deliveries}
        try:
            await self._store(action)
            ended = [each for each in action.deliveries if each.ended]
            for each in ended:
                await self._ended(each)
            self._over |= {each.owner for each in ended}
            self._changed.set()
        except HpcserveError:
            if not self._owed:
                self._write_again_at = self.now() + WRITTEN_AGAIN_S
            self._owed |= ids
            raise
        self._owed -= ids

    async def _settle(self, owner: str) -> None:
        """Of whom nothing is under way, no rule and no login is needed."""
        is_idle = partial(self.is_idle, owner)
        if is_idle():
            await self._doors.let_out(owner, is_idle)
        if is_idle():
            await self._wallet.done(owner, is_idle)

    async def _settle_soon(self, owner: str) -> None:
        """Globus may take its time, and the other owners do not wait for that."""
        try:
            await self._settle(owner)
        except HpcserveError as error:
            _log.warning("what was kept for %s is still there: %s", owner, error)
            await asyncio.sleep(WRITTEN_AGAIN_S)
            self._over.add(owner)
            self._changed.set()

    async def _tidy(self) -> None:
        """What the daemon before this one did not come to."""
        for owner in self._wallet.keepers():
            try:
                await self._settle(owner)
            except HpcserveError as error:
                _log.warning("what was kept for %s is still there: %s", owner, error)

    async def _make_up(self) -> None:
        """Writes down once more, as it is now, what could not be, and does what comes after that."""
        if not self._owed or self.now() < self._write_again_at:
            return
        self._write_again_at = self.now() + WRITTEN_AGAIN_S
        owed = [each for id in sorted(self._owed) if (each := self.book.get(id)) is not None]
        self._owed &= {each.id for each in owed}
        await self._carry_out([Store(tuple(owed))])

    async def _store(self, action: Store) -> None:
        rows = [DeliveryRow.made(each, self._wallet.digest(each.owner)) for each in action.deliveries]
        if rows:
            await self._storage.do(put_deliveries, rows)

    def is_idle(self, owner: str) -> bool:
        """Whether nothing of an owner's is under way."""
        return all(each.ended for each in self.book.deliveries(owner))

    async def _ended(self, delivery: Delivery) -> None:
        if delivery.state == "succeeded":
            await self._delivered(delivery)
        else:
            _log.warning("delivery %s of %s has %s: %s", delivery.id, delivery.owner, delivery.state, delivery.why)


def _wait_for_rule(carrier: Carrier, source: End) -> None:
    """A task that meets a rule too early is refused, and that ends it. A collection that is away, it waits for."""
    try:
        carrier.found(source)
    except StepFailed as error:
        if error.trouble.kind == "login":
            raise
        if error.trouble.kind == "fatal":
            raise StepFailed(Trouble("again", f"{NOT_IN_FORCE} ({error.trouble.why})")) from error
