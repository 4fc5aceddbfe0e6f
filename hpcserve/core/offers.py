"""What owners submit themselves: which shipments are offered to them, and what they may do about these.

- What Transfer refuses once more, in the same words, after the login that it wanted, is *offered* to its owner, and so
  is what goes the same way later: his own login may do where the service's token does not.
- Who submits does so with the same id, so that there is one task; the id is not replaced while an owner may be about
  to. Whether he has, or was refused too, he reports; and once he has the id, it is looked for, since nobody knows who
  was killed when: until a time after he may have submitted it. What he reports later still is followed all the same.
- Each goes to one place alone, which its owner has named: what he agrees to beforehand is that place. What is offered
  the first time may go to several; then it starts anew, each place's in a task of its own.
- Which login is wanted is told until a step goes well, or the file is asked for again, which is how a client goes on
  after one. A step that may go well later says nothing about it, and neither does a token that is merely newer.

Times are seconds of the book's clock.
"""

from __future__ import annotations

from typing import Any

from hpcserve.core.delivery import Action, Delivery, State, Store, Submit, Trouble
from hpcserve.core.deliverybook import Book
from hpcserve.core.shipments import Shipment, asked_of
from hpcserve.errors import Conflict, LoginRequired, ServiceUnavailable

FIND_S = 600.0
"""So long it is looked for when its owner cannot be about to submit it any more: Globus lists it by then."""


class Offers:
    """The shipments that wait for a login, or for their owner to submit them.

    Args:
        book: All of them. What was offered when it was stored, still is.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._closed = {book.way(each) for each in book.shipments() if each.offered}  # to the service's tokens

    def go_on(self, id: str, now: float, by: str) -> list[Action]:
        """A delivery was asked for once more, as after a login: none is waited for until one is wanted again.

        ``by``: the login by which its owner is in. The one by which Transfer has refused it already is no new one.
        """
        shipment = self._book.shipment_of(id)
        if shipment is None:
            return []
        if shipment.login is not None and shipment.refused and by != shipment.refused_by:
            shipment.tried.append(asked_of(shipment.login))
        waited, shipment.login, shipment.lacks = shipment.login is not None, None, None
        shipment.at, shipment.pause_s = min(shipment.at, now), 0.0
        ids = [each for each in shipment.ids if waited and self._book.state(each) == "inactive"]
        changes = self._book.change(ids, state="active", why="")
        return [changes] if changes.deliveries else []

    def hand_out(self, id: str, now: float) -> tuple[Store, Submit, dict[str, Any]]:
        """The owner of a delivery is about to submit what it travels in; the store is written first.

        The last is the login that Transfer has wanted of the service, as the ``detail`` of a LoginRequired.

        Raises:
            HpcserveError: As :meth:`look`.
        """
        _, login = self.look(id, now)
        number = self._book.number_of(id)
        shipment = self._book.shipment_of(id)
        assert shipment is not None, "it was looked at"
        shipment.unsure, shipment.handed_until = True, now + self._book.limits.hand_s
        shipment.at, shipment.pause_s = min(shipment.at, now), 0.0
        stored, submit = self._book.order(number)
        return stored, submit, login

    def look(self, id: str, now: float) -> tuple[Submit, dict[str, Any]]:
        """What its owner would submit, and which login Transfer has wanted of the service; nothing changes.

        Raises:
            Conflict: It is not, or no longer, for its owner to submit, who may have done so.
            LoginRequired: The service needs a login first, to see what Transfer wants and what became of it.
            ServiceUnavailable: It is being submitted by the service just now.
        """
        shipment = self._book.shipment_of(id)
        if shipment is None or not shipment.offered or self._book.state(id) != "offered":
            raise Conflict(f"transfer {id} is {self._book.state(id)}, and not its owner's to submit")
        if shipment.reported:
            raise Conflict(f"transfer {id} was submitted by its owner already, as task {shipment.reported}")
        if self._book.is_given_up(shipment, now):
            raise Conflict(self._why_not(id, shipment, now))
        if shipment.login is None and shipment.lacks is not None:
            raise LoginRequired(
                f"transfer {id} is yours to submit, and the service needs a login first ({shipment.lacks.why}): "
                "hpcserve transfers --login",
                detail=shipment.lacks.detail,
            )
        if shipment.login is None or self._book.is_dated(shipment, now):
            raise ServiceUnavailable(f"transfer {id} is being tried by the service once more", retry_after_s=0.5)
        _, submit = self._book.order(self._book.number_of(id))
        return submit, shipment.login

    def _why_not(self, id: str, shipment: Shipment, now: float) -> str:
        """What is offered is its owner's again soon, or never."""
        if self._book.is_old(shipment, now):
            return f"transfer {id} is given up, since nobody has submitted it in time"
        soon = "in a minute or two: hpcserve transfers --login"
        if shipment.lost is not None:
            return f"transfer {id} is looked for at Globus before it starts anew or ends ({shipment.lost.why}); {soon}"
        return f"transfer {id} starts anew, since one that travels with it was cancelled; {soon}"

    def not_submitted(self, id: str, submission: str, trouble: Trouble, now: float) -> list[Action]:
        """Globus has refused this submission to the owner of a delivery, who has no task of it.

        ``trouble`` is ``stale`` or ``fatal``. It is looked for before anything comes of that.
        """
        shipment = self._book.shipment_of(id)
        if shipment is None or not shipment.offered or shipment.submission != submission or shipment.reported:
            return []
        shipment.lost, shipment.login = trouble, None
        shipment.at, shipment.pause_s = min(shipment.at, now), 0.0
        changes = self._book.change(shipment.ids, why=trouble.why)
        return [changes] if changes.deliveries else []

    def is_closed(self, each: Delivery) -> bool:
        """Whether the way of a delivery takes no token of the service's."""
        return (each.owner, each.source.collection, each.target.collection) in self._closed

    def waits_for_owner(self, shipment: Shipment) -> bool:
        """Whether it is offered, and was refused to the service since that was asked for last."""
        return shipment.offered and shipment.login is not None

    def wait(self, shipment: Shipment, trouble: Trouble) -> list[Action]:
        """A step did not succeed, and that ends nothing: what it waits for is told, and it is offered if that helps."""
        refused = trouble.by_transfer and bool(shipment.submission) and not shipment.task
        if shipment.offered and not refused:
            if trouble.kind == "login":
                shipment.lacks = trouble
            return []  # what is told is still so
        if trouble.kind == "login":
            if not (shipment.refused and asked_of(trouble.detail) == asked_of(shipment.login)):
                shipment.refused_by = trouble.by
            shipment.login, shipment.refused = trouble.detail, refused
        state: State | None = "inactive" if trouble.kind == "login" and shipment.task else None
        if refused and self._is_its_owners(shipment):
            shipment.offered, state = True, "offered"
        changes = self._book.change(shipment.ids, state=state, why=trouble.why)
        return [changes] if changes.deliveries else []

    def _is_its_owners(self, shipment: Shipment) -> bool:
        """Whether no login at the service will do for what Transfer has just refused."""
        if asked_of(shipment.login) in shipment.tried:
            self._closed.add(self._book.way(shipment))
        return self._book.way(shipment) in self._closed

    def went_through(self, shipment: Shipment) -> None:
        """It was submitted: where that was not its owner, the way is open again."""
        if not shipment.offered:
            self._closed.discard(self._book.way(shipment))
        shipment.offered = False
