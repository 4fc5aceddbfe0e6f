"""Who asks Transfer or a collection, by the token that they show, and how either refuses."""

from __future__ import annotations

import secrets
from typing import Any

from hpcserve.testing.globus.collections import Caller, Collection
from hpcserve.testing.globus.http import Refusal, Request
from hpcserve.testing.globus.records import TRANSFER_ALL, Token
from hpcserve.testing.globus.world import World


def refusal(request: Request, status: int, code: str, message: str, **more: Any) -> Refusal:
    """How Transfer says no."""
    return Refusal(status, outcome(request, code, message, **more))


def outcome(request: Request, code: str, message: str, **more: Any) -> dict[str, Any]:
    """What Transfer says of something that it did or did not do."""
    return {
        "code": code,
        "message": message,
        "request_id": secrets.token_urlsafe(7)[:9],
        "resource": request.path,
        **more,
    }


def token_of(world: World, request: Request, scope: str) -> Token:
    """The token of a request, for this scope.

    Raises:
        Refusal: There is none, it is none, or it is for something else.
    """
    if not request.bearer():
        raise refusal(request, 401, "AuthenticationFailed", "No credentials supplied")
    token = world.token(request.bearer())
    if token is None:
        raise refusal(request, 401, "AuthenticationFailed", "Token is not active")
    if scope not in token.scopes:
        raise refusal(request, 403, "PermissionDenied", f"The token lacks the scope {scope}")
    return token


def caller(world: World, identity: str) -> Caller:
    """The person behind an identity, with all linked identities and their groups of the moment."""
    with world.lock:
        person = world.people[identity]
        identities = {identity, *person.linked}
        groups = {group.id for group in world.groups.values() if not identities.isdisjoint(group.members)}
        return Caller(identity, person.username, frozenset(identities), frozenset(groups))


def check_consent(world: World, request: Request, token: Token, *collections: Collection, by: str = "") -> None:
    """Whether the token's bearer may act for its person on these collections.

    Args:
        world: Who consented to what.
        request: What is asked.
        token: By whom.
        collections: Where.
        by: The scope through which it goes; by default Transfer's.

    Raises:
        Refusal: ``ConsentRequired``, with the scopes to ask for, or another login is needed.
    """
    scope = by or TRANSFER_ALL
    missing: list[str] = []
    for each in collections:
        if each.trouble.authorization_parameters is not None:
            asked = each.trouble.authorization_parameters
            message = asked.get("session_message", "The session does not satisfy the collection")
            raise refusal(request, 403, "PermissionDenied", message, authorization_parameters=asked)
        _check_session(world, request, token, each)
        missing += each.trouble.required_scopes
        if each.needs_data_access and not world.consented(token, scope, each.data_access):
            missing.append(f"{scope}[*{each.data_access}]")
    if missing:
        message = "Missing required data_access consent"
        raise refusal(request, 403, "ConsentRequired", message, required_scopes=missing)


def _check_session(world: World, request: Request, token: Token, collection: Collection) -> None:
    """Whether the session of a token does for a collection of high assurance."""
    domain = collection.domain
    with world.lock:
        by = token.session.authentications or {token.sub} & world.clients.keys()  # a program has proved its secret
        proved = {world.people[each].domain for each in by}
    if not domain or (domain in proved and not token.grant.way):
        return
    wanted = {
        "session_message": "Session reauthentication required (Globus Transfer)",
        "session_required_identities": [],
        "session_required_mfa": False,
        "session_required_single_domain": [domain],
    }
    message = (
        f"Error validating login to endpoint '{collection.name} ({collection.id})': None of your authenticated "
        "identities are from domains allowed by resource policies"
    )
    raise refusal(request, 403, "PermissionDenied", message, authorization_parameters=wanted)
