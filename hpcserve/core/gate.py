"""Who may call which endpoint, at the broker: decided once for each session and endpoint, and remembered.

What is remembered is forgotten when the session's caller, an owner or a visibility has changed. An endpoint that the
caller may not see is one that does not exist; of whose groups are not known at present, it is not said what exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hpcserve.core.access import OPEN, Caller, Decision, Policy, decide, is_named
from hpcserve.core.routes import RoutingTable, groups_unknown, of_nobody, unknown_endpoint
from hpcserve.core.sessions import Session
from hpcserve.core.spelling import shortened
from hpcserve.errors import HpcserveError, PermissionDenied
from hpcserve.types import Counter, EndpointName


class Decided(NamedTuple):
    """A decision for the audit log: the request ``id`` of the session was the occasion."""

    session: Session
    id: Counter
    endpoint: str
    decision: Decision


class Gate:
    """Lets calls through, or does not. ``news``: what was decided, until somebody takes it.

    Args:
        policy: The site's.

    Attributes:
        groups_count: Whether any rule names a group; may be set.
    """

    def __init__(self, policy: Policy = OPEN) -> None:
        self._policy = policy
        self.groups_count = True
        self.news: list[Decided] = []

    def check(self, session: Session, id: Counter, endpoint: str, table: RoutingTable) -> None:
        """Whether the session may call the endpoint.

        Raises:
            UnknownEndpoint: There is none, or the caller may not know of it.
            PermissionDenied: It may not be called.
            ServiceUnavailable: It may be that the caller may once his groups are known.
        """
        name = table.endpoints.get(EndpointName(endpoint))
        if name is None:
            raise self._not_seen(session, endpoint, self._seen(session, table))
        decision = session.decided.get(endpoint)
        if decision is None:
            decision = decide(self._policy, session.caller, "call", table.deployments[name].access)
            session.decided[endpoint] = decision
            self.news.append(Decided(session, id, endpoint, decision))
        if decision.allowed:
            return
        seen = self._seen(session, table)
        if endpoint not in seen:
            raise self._not_seen(session, endpoint, seen)
        raise PermissionDenied(f"you may not call endpoint {shortened(endpoint)}: {decision.reason}")

    def _seen(self, session: Session, table: RoutingTable) -> frozenset[str]:
        """The endpoints that the caller may know of."""
        if session.seen is None:
            session.seen = frozenset(
                endpoint
                for endpoint, name in table.endpoints.items()
                if decide(self._policy, session.caller, "see", table.deployments[name].access).allowed
            )
        return session.seen

    def _not_seen(self, session: Session, endpoint: str, seen: frozenset[str]) -> HpcserveError:
        if session.caller.groups is None and self.groups_count:
            return groups_unknown(endpoint)
        return (
            unknown_endpoint(endpoint, seen) if seen or is_named(self._policy, session.caller) else of_nobody(endpoint)
        )

    def take(self) -> list[Decided]:
        """What was decided, once."""
        taken, self.news = self.news, []
        return taken


def recall(session: Session, caller: Caller) -> None:
    """Somebody else is behind the session now, or the same one is known to be in other groups."""
    if session.caller != caller:
        session.caller = caller
        forget(session)


def forget(session: Session) -> None:
    """What was decided holds no longer."""
    session.decided.clear()
    session.ways.clear()
    session.seen = None


def routes_changed(sessions: Iterable[Session], before: RoutingTable, after: RoutingTable) -> None:
    """Ways lead elsewhere; what was decided holds on, unless whose something is has changed, or who may see it."""
    same = _access(before) == _access(after)
    for session in sessions:
        if same:
            session.ways.clear()
        else:
            forget(session)


def _access(table: RoutingTable) -> dict[EndpointName, object]:
    return {endpoint: table.deployments[name].access for endpoint, name in table.endpoints.items()}
