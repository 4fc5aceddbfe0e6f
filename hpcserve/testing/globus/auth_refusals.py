"""How Auth says no, in its two forms: that of OAuth 2, and that of its other resources."""

from __future__ import annotations

import uuid
from typing import Any

from hpcserve.testing.globus.http import Refusal, Request
from hpcserve.testing.globus.records import Client, Token
from hpcserve.testing.globus.world import World

REASON = "x-stand-in-reason"


def oauth_refusal(status: int, error: str, reason: str) -> Refusal:
    """An error of RFC 6749. Auth says only which; why goes in a header, for whoever debugs a test."""
    return Refusal(status, {"error": error}, {REASON: reason})


def dependent_consent_required(scopes: list[str]) -> Refusal:
    """The person has not agreed that the bearer goes on to these scopes."""
    reason = "Missing required consents for dependent scopes"
    problem: dict[str, Any] = _problem(403, "DEPENDENT_CONSENT_REQUIRED", reason)
    problem["unapproved_scopes"] = scopes
    return Refusal(
        403, {"error": "dependent_consent_required", "error_description": reason, "errors": [problem]}, {REASON: reason}
    )


def api_refusal(status: int, code: str, detail: str) -> Refusal:
    """An error of /v2/api and of userinfo."""
    title = code.replace("_", " ").title()
    body = {
        "errors": [_problem(status, code, detail, title)],
        "error_description": title,
        "error": code.lower(),
    }
    return Refusal(status, body)


def calling_client(world: World, request: Request) -> Client:
    """The client that authenticates itself with its secret.

    Raises:
        Refusal: It does not.
    """
    name, secret = request.basic()
    client = world.clients.get(name)
    if client is None or client.secret != secret:
        raise oauth_refusal(401, "invalid_client", f"no client {name!r} with this secret")
    return client


def calling_token(world: World, request: Request, resource_server: str) -> Token:
    """The access token that the request carries.

    Raises:
        Refusal: There is none that is active, or it is for somebody else.
    """
    token = world.token(request.bearer())
    if token is None:
        raise api_refusal(401, "UNAUTHORIZED", "Call must be authenticated")
    if token.resource_server != resource_server:
        raise api_refusal(403, "FORBIDDEN", f"this token is for {token.resource_server}")
    return token


def _problem(status: int, code: str, detail: str, title: str = "") -> dict[str, Any]:
    return {"status": str(status), "id": str(uuid.uuid4()), "code": code, "detail": detail, "title": title or detail}
