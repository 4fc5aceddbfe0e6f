"""The calls about transfers that their owners submit themselves: what is to be submitted, and what came of it."""

from __future__ import annotations

from typing import Any

from hpcserve.core.access import Decision
from hpcserve.core.delivery import Delivery, Submit, Trouble
from hpcserve.core.destinations import is_uuid
from hpcserve.core.spelling import printable, shortened
from hpcserve.daemon.controller.guard import OWN, Asking
from hpcserve.daemon.controller.transferdesk import Desk, Service
from hpcserve.errors import InvalidInput, NotFound, PermissionDenied, ServiceUnavailable
from hpcserve.staging.transfer import StepFailed
from hpcserve.wire import admin as verbs

MOST_CHARACTERS = 1000


class OwnSubmissions:
    """Answers the calls.

    Args:
        desk: Knows the callers.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def submission(self, arguments: verbs.AskSubmission, asking: Asking) -> verbs.Submission:
        """One is to be submitted by the caller himself, or shown to him before that."""
        service, delivery = await self._own_transfer(asking, arguments.id)
        if arguments.look:
            order, login = service.deliveries.look(delivery.id)
        else:
            order, login = await self._handed(service, delivery, asking)
        limits = service.deliveries.book.limits
        source, target = delivery.source.collection, delivery.target.collection
        return verbs.Submission(
            submission="" if arguments.look else order.submission,
            source=source,
            target=target,
            items=tuple((each.source.path, each.target.path) for each in order.deliveries),
            deadline_s=limits.deadline_s,
            within_s=limits.hand_s / 2,
            login=login,
            why=delivery.why,
            consents=(source,) if self._desk.is_mapped(source) else (),
        )

    async def _handed(self, service: Service, delivery: Delivery, asking: Asking) -> tuple[Submit, dict[str, Any]]:
        """It is the caller's from now on, for a time."""
        try:
            handed = await service.deliveries.hand_out(delivery.id)
        except StepFailed as error:
            raise ServiceUnavailable(error.trouble.why, retry_after_s=error.trouble.retry_after_s or 2.0) from error
        await self._desk.guard.note(asking, "submit", delivery.id, OWN)
        return handed

    async def submitted(self, arguments: verbs.Submitted, asking: Asking) -> verbs.TransferList:
        """The caller has submitted one."""
        service, delivery = await self._own_transfer(asking, arguments.id)
        if not is_uuid(arguments.task):
            raise InvalidInput(f"task={shortened(arguments.task)}: expected the id of a task of Globus Transfer")
        try:
            await service.deliveries.reported(delivery.id, arguments.submission, arguments.task)
        except PermissionDenied as error:
            decision = Decision(allowed=False, by="owner", reason=error.message)
            await self._desk.guard.note(asking, "submit", delivery.id, decision)
            raise
        except StepFailed as error:
            raise ServiceUnavailable(error.trouble.why, retry_after_s=error.trouble.retry_after_s or 2.0) from error
        return self._desk.listed(service.deliveries, [delivery.id])

    async def not_submitted(self, arguments: verbs.NotSubmitted, asking: Asking) -> verbs.TransferList:
        """Globus has refused one to the caller, too."""
        service, delivery = await self._own_transfer(asking, arguments.id)
        why = f"{printable(arguments.why[:MOST_CHARACTERS])}; it was refused to its owner, too"
        trouble = Trouble("stale" if arguments.stale else "fatal", why)
        await service.deliveries.not_submitted(delivery.id, arguments.submission, trouble)
        return self._desk.listed(service.deliveries, [delivery.id])

    async def _own_transfer(self, asking: Asking, id: str) -> tuple[Service, Delivery]:
        """One of the caller's; what is another's, also an administrator's to see, is written down."""
        service, owner = self._desk.seen(asking)
        found = service.deliveries.book.get(id)
        if found is None or found.owner != owner:
            reason = "no such transfer of the caller's"
            await self._desk.guard.note(asking, "submit", id, Decision(allowed=False, by="owner", reason=reason))
            raise NotFound(f"no transfer {shortened(id)}; see: hpcserve transfers")
        return service, found
