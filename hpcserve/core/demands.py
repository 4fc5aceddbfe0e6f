"""The login that a service asks for, read from its LoginRequired, and what of it a client goes along with.

What a service says is not trusted: one that has gone bad could ask for a token of something else, with which it could
act as the user there. So it gets a token of one scope that looks like a service's own, and of nothing that Globus
itself offers or that reads a collection's files. Whether that scope is *this* service's, nothing in the document
proves: Globus's page shows the user what they consent to, and :mod:`hpcserve.auth.signin` lets one service have it.

Source: https://globus-sdk-python.readthedocs.io/en/stable/authorization/gare.html
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from hpcserve.errors import AuthenticationError, LoginRequired

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SCOPE = re.compile(r"https://auth\.globus\.org/scopes/([A-Za-z0-9.-]+)/([A-Za-z0-9_.:-]+)")
_DATA_ACCESS = re.compile(r"https://auth\.globus\.org/scopes/([^/\[\] ]+)/data_access")
TRANSFER = "transfer.api.globus.org"
TRANSFER_SCOPE = f"urn:globus:auth:scope:{TRANSFER}:all"
OF_COLLECTIONS = frozenset({"data_access", "https", "manage_collections"})
"""Names of scopes by which somebody's files are reached."""
MOST_CHARACTERS = 2000


class Parameters(msgspec.Struct, frozen=True):
    """What the login has to be like, by Globus's names."""

    session_message: str | None = None
    session_required_identities: list[str] | None = None
    session_required_policies: list[str] | None = None
    session_required_single_domain: list[str] | None = None
    session_required_mfa: bool | None = None
    required_scopes: list[str] | None = None
    prompt: str | None = None


class Demand(msgspec.Struct, frozen=True):
    """The login that one service asks for.

    Attributes:
        client_id: The client at Globus by which its users log in.
        scope: That of the service.
        resource_server: The service's own client, for which the token must be.
        authorization_parameters: What more the login has to be.
    """

    client_id: str
    scope: str
    resource_server: str
    authorization_parameters: Parameters = Parameters()

    @property
    def needs_person(self) -> bool:
        """Whether somebody has to do something: a token that is merely newer would not do."""
        scopes = self.authorization_parameters.required_scopes or ()
        return self.needs_session or any(each != self.scope for each in scopes)

    @property
    def needs_session(self) -> bool:
        """Whether a person has to prove more: no program could. To a further scope a program consents by asking."""
        wanted = self.authorization_parameters
        told = (
            wanted.session_required_identities,
            wanted.session_required_policies,
            wanted.session_required_single_domain,
            wanted.session_required_mfa,
            wanted.prompt,
        )
        return any(told)

    @property
    def rights(self) -> str:
        """What the service is let do by it: its own scope, and through that what further ones it needs."""
        scopes = self.authorization_parameters.required_scopes or ()
        inner = [each.removeprefix(self.scope)[1:-1] for each in scopes if each.startswith(f"{self.scope}[")]
        return f"{self.scope}, and through that to {' '.join(dict.fromkeys(inner))}" if inner else self.scope

    def after(self, before: Demand | None) -> Demand:
        """This one, and what was asked for before: a service says one thing at a time."""
        if before is None or before.scope != self.scope:
            return self
        old, new = before.authorization_parameters, self.authorization_parameters
        both = Parameters(
            session_message=new.session_message,
            session_required_identities=_joined(old.session_required_identities, new.session_required_identities),
            session_required_policies=_joined(old.session_required_policies, new.session_required_policies),
            session_required_single_domain=_joined(
                old.session_required_single_domain, new.session_required_single_domain
            ),
            session_required_mfa=old.session_required_mfa or new.session_required_mfa,
            required_scopes=_joined(old.required_scopes, new.required_scopes),
            prompt=new.prompt or old.prompt,
        )
        return replace(self, authorization_parameters=both)


def _joined(old: list[str] | None, new: list[str] | None) -> list[str] | None:
    return list(dict.fromkeys((old or []) + (new or []))) or None


def together(wanted: Sequence[LoginRequired]) -> LoginRequired:
    """One login in place of several that a service needs, of which each lacks something else: all consents at once.

    What the first says in other respects counts.
    """
    first = wanted[0]
    parameters = [each.detail.get("authorization_parameters", {}) for each in wanted if each.detail]
    if len(parameters) < 2:
        return first
    scopes = dict.fromkeys(scope for each in parameters for scope in each.get("required_scopes") or ())
    why = dict.fromkeys(each["session_message"] for each in parameters if each.get("session_message"))
    more = {"required_scopes": list(scopes), "session_message": "; ".join(why)}
    joint = {name: value for each in reversed(parameters) for name, value in each.items()} | more
    return LoginRequired(first.message, detail={**first.detail, "authorization_parameters": joint})


def without_session(wanted: LoginRequired) -> LoginRequired:
    """The same login without what only a person can prove: a program can but log in anew, with the scopes."""
    told = (wanted.detail or {}).get("authorization_parameters") or {}
    kept = {name: told[name] for name in ("required_scopes", "session_message") if name in told}
    return LoginRequired(wanted.message, detail={**(wanted.detail or {}), "authorization_parameters": kept})


def demand_of(refused: LoginRequired) -> Demand:
    """What a service asks for.

    Raises:
        AuthenticationError: It cannot be understood, or is nothing that a service should ask for.
    """
    try:
        demand = msgspec.convert(_with_parameters(refused.detail), Demand)
    except msgspec.ValidationError as error:
        raise AuthenticationError(f"the service asks for a login that cannot be understood ({error})") from error
    found = _SCOPE.fullmatch(demand.scope)
    if found is None or len(demand.scope) > MOST_CHARACTERS or found[2] in OF_COLLECTIONS:
        raise _too_much(demand.scope)
    if not _UUID.fullmatch(demand.client_id) or not _UUID.fullmatch(demand.resource_server):
        raise AuthenticationError("the service asks for a login by a client whose id is no UUID")
    if _UUID.fullmatch(found[1]) and found[1] != demand.resource_server:
        raise _too_much(demand.scope)
    for each in demand.authorization_parameters.required_scopes or ():
        rest = each.removeprefix(demand.scope)
        if rest == each or len(each) > MOST_CHARACTERS or (rest and not _is_in_brackets(rest)):
            raise _too_much(each)
    return demand


def own_demand(refused: LoginRequired, consents: Iterable[str] = (), *, among: Container[str]) -> Demand:
    """The login with which somebody submits himself what Transfer has refused to a service: for Transfer alone.

    No service gets the token. Of what the service says nothing counts but the session, and on which collections
    Transfer is to be let act.

    Args:
        refused: What the service was refused, as it says it.
        consents: Further collections on which Transfer is to be let act.
        among: The collections of the transfer: Transfer is to be let act on no other, whatever the service says.

    Raises:
        AuthenticationError: As :func:`demand_of`.
    """
    told = demand_of(refused)
    named = [*consents, *_DATA_ACCESS.findall(" ".join(told.authorization_parameters.required_scopes or ()))]
    within = [each for each in dict.fromkeys(named) if each in among]
    below = " ".join(f"*https://auth.globus.org/scopes/{each}/data_access" for each in within)
    if not all(map(_UUID.fullmatch, named)):
        raise AuthenticationError("the service names a collection whose id is no UUID")
    scope = f"{TRANSFER_SCOPE}[{below}]" if below else TRANSFER_SCOPE
    wanted = replace(told.authorization_parameters, required_scopes=[scope])
    return Demand(told.client_id, TRANSFER_SCOPE, TRANSFER, wanted)


def _with_parameters(detail: dict[str, Any]) -> dict[str, Any]:
    """A ``prompt`` that Globus does not know is left out, since the page would refuse it."""
    parameters = detail.get("authorization_parameters")
    if isinstance(parameters, dict) and parameters.get("prompt") != "login":
        parameters = {name: value for name, value in parameters.items() if name != "prompt"}
    return {**detail, "authorization_parameters": {} if parameters is None else parameters}


def _is_in_brackets(text: str) -> bool:
    """Whether all of it is one pair of brackets: what follows the last one would be a scope of its own."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth < 0 or (depth == 0 and place < len(text) - 1):
            return False
    return depth == 0 and text.startswith("[")


def _too_much(scope: str) -> AuthenticationError:
    return AuthenticationError(
        f"the service asks for a token of {scope[:MOST_CHARACTERS]!r}, which is not a service's own scope; with it, "
        "whoever runs the service could act as you elsewhere. Nobody is logged in; ask its operator"
    )
