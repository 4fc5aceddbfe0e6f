"""What Globus says of an access token, and whether that is enough to be let in: closed on whatever is missing.

The answer to an introspection is JSON from elsewhere, so nothing in it is taken for granted: a field that is not there,
or is of another type, refuses as a wrong one does. Times are seconds since 1970, which the answer is in too.

A refusal that another login would mend is a LoginRequired, whose ``detail`` says which login, in the form of Globus's
authentication requirements. What no login mends (a token for another service, a policy that Globus did not evaluate) is
an AuthenticationError, and a missing membership a PermissionDenied.

Whether a policy is met Globus has evaluated; who may do what once inside, :mod:`hpcserve.core.access` decides.

Source: https://docs.globus.org/api/auth/reference/ (token introspection), RFC 7662.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hpcserve.errors import AuthenticationError, LoginRequired, PermissionDenied, ServiceUnavailable

CLIENTS_DOMAIN = "clients.auth.globus.org"
"""The domain of identities that are programs: they come by a client's secret, and have no session."""
MFA = "https://refeds.org/profile/mfa"
MOST_CHARACTERS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a site demands of a token.

    Attributes:
        client_id: The service's own client at Globus, for which the token must be.
        login_client_id: The client that its users log in by.
        scope: The token must have exactly this one, whatever else it has.
        issuer: Who must have issued it.
        policies: Ids of policies that must all have been evaluated, each to true.
        domains: The session's identity provider must be of one of these; empty: of any.
        groups: Its owner must be an active member of one of these, by their ids; empty: of none.
        mfa: Whether the session must have been begun with a second factor.
        skew_s: The clocks of Globus and of this host may differ by so much.
    """

    client_id: str
    login_client_id: str
    scope: str
    issuer: str
    policies: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    mfa: bool = False
    skew_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Whose token it is: the identity that logged in, not any that is linked to it.

    Attributes:
        id: Of the identity.
        name: Its user name, ``name@domain``, in lower case.
        domain: That of the identity provider of this session.
        linked: Ids of all identities of the same owner, this one included.
        expires_at: When the token ends.
        linked_names: The user names of these identities, in lower case.
    """

    id: str
    name: str
    domain: str
    linked: tuple[str, ...]
    expires_at: float
    linked_names: tuple[str, ...] = ()


class _Login(NamedTuple):
    """An identity that was logged in with in the token's session."""

    id: str
    name: str
    domain: str
    at: float
    mfa: bool


def judge(answer: object, rules: Rules, now: float) -> Person:
    """Who comes with the token that Globus Auth has answered this about.

    Args:
        answer: The introspection, with ``session_info``, ``identity_set_detail`` and ``policy_evaluations``.
        rules: What the site demands.
        now: Seconds since 1970.

    Raises:
        LoginRequired: Another login is wanted; ``detail`` says which.
        AuthenticationError: The token is not for this service, or the answer lacks something.
        ServiceUnavailable: It is no answer of Globus Auth at all, but a page of something that stands before it.
    """
    if not isinstance(answer, Mapping):
        raise _no_answer("Globus Auth")
    told = answer
    if told.get("active") is not True:
        raise login_required(rules, "the token is not valid: it has expired, was revoked, or is not Globus's")
    _check_origin(told, rules)
    expires_at = _check_times(told, rules, now)
    if rules.scope not in _text(told, "scope").split():
        raise login_required(rules, f"the token lacks the scope {rules.scope}")
    _check_policies(told, rules)
    login, identities = _chosen(told, rules), _identities(told)
    names = {_text(each, "username").lower() for each in identities.values()}
    return Person(
        id=login.id,
        name=login.name,
        domain=login.domain,
        linked=tuple(sorted({login.id, *identities})),
        expires_at=expires_at,
        linked_names=tuple(sorted({login.name, *names})),
    )


def check_groups(rules: Rules, groups: tuple[str, ...] | None) -> None:
    """Whether these memberships are enough; None: they could not be asked for.

    Raises:
        PermissionDenied: They are not.
        ServiceUnavailable: Nobody knows.
    """
    if not rules.groups:
        return
    if groups is None:
        raise ServiceUnavailable(
            "Globus Groups does not say in which groups you are, and this service wants a membership; try again later",
            retry_after_s=10.0,
        )
    if not set(groups) & set(rules.groups):
        listed = ", ".join(rules.groups)
        raise PermissionDenied(
            f"you are in none of the Globus groups that may use this service ({listed}); join one, then "
            "log in anew: hpcserve login --force"
        )


def memberships(answer: object) -> tuple[str, ...]:
    """The ids of the groups that somebody is an active member of, by what Globus Groups answered.

    Raises:
        AuthenticationError: One of the groups lacks something.
        ServiceUnavailable: It is no answer of Globus Groups at all.
    """
    if not isinstance(answer, list):
        raise _no_answer("Globus Groups")
    found = set()
    for each in answer:
        group = _map(each, "a group")
        mine = group.get("my_memberships")
        if not isinstance(mine, list):
            raise _malformed("a group's my_memberships", mine)
        if any(_map(one, "a membership").get("status") == "active" for one in mine):
            found.add(_text(group, "id"))
    return tuple(sorted(found))


def login_required(
    rules: Rules, why: str, *, scopes: Iterable[str] = (), mend: str = "hpcserve login", **wanted: object
) -> LoginRequired:
    """The error that asks for a login.

    Args:
        rules: What the site demands.
        why: What is wrong with the present one.
        scopes: What has to be consented to, if it is not the service's scope.
        mend: The command by which a person logs in as is wanted.
        wanted: Further authorization parameters, by Globus's names for them.
    """
    scopes = list(scopes) or [rules.scope]
    detail = {
        "code": "AuthorizationRequired",
        "authorization_parameters": {"session_message": why, "required_scopes": scopes, **wanted},
        "client_id": rules.login_client_id,
        "scope": rules.scope,
        "resource_server": rules.client_id,
    }
    return LoginRequired(f"{why}; log in: {mend}", detail=detail)


def _check_origin(told: Mapping[str, Any], rules: Rules) -> None:
    audience = told.get("aud")
    audience = [audience] if isinstance(audience, str) else audience
    if not isinstance(audience, list) or rules.client_id not in audience:
        raise AuthenticationError(
            f"the token is not for this service: its audience is {audience!r}, not {rules.client_id}; "
            "send a token of this service's scope"
        )
    if told.get("iss") != rules.issuer:
        raise AuthenticationError(f"the token was issued by {told.get('iss')!r}, not by {rules.issuer}")


def _check_times(told: Mapping[str, Any], rules: Rules, now: float) -> float:
    expires_at = _number(told, "exp")
    if expires_at <= now:
        raise login_required(rules, "the token has expired")
    for name in ("nbf", "iat"):
        since = _number(told, name)
        if since > now + rules.skew_s:
            raise AuthenticationError(
                f"the token is valid from {since - now:.0f} s from now on ({name}); "
                "either it is not Globus's, or the service's clock is wrong"
            )
    return expires_at


def _check_policies(told: Mapping[str, Any], rules: Rules) -> None:
    if not rules.policies:
        return
    evaluated = _map(told.get("policy_evaluations"), "policy_evaluations")
    unmet = []
    for policy in rules.policies:
        found = evaluated.get(policy)
        verdict = found.get("evaluation") if isinstance(found, Mapping) else None
        if not isinstance(verdict, bool):
            raise AuthenticationError(
                f"Globus Auth has not evaluated the policy {policy}, which this service requires; its operator should "
                "see whether it exists and whether the service's client may use it"
            )
        if not verdict:
            unmet.append(policy)
    if unmet:
        why = f"your login does not meet the service's policy {', '.join(unmet)}"
        raise login_required(rules, why, session_required_policies=list(rules.policies), prompt="login")


def _chosen(told: Mapping[str, Any], rules: Rules) -> _Login:
    """The login that lets in: of the token's own identity if there is one, else the latest."""
    logins = list(_logins(told))
    if not logins:
        raise login_required(rules, "the token's session holds no login", prompt="login")
    allowed = [each for each in logins if not rules.domains or each.domain in rules.domains]
    if not allowed:
        domains = ", ".join(rules.domains)
        why = f"you have logged in as {logins[0].name}, and this service wants an identity of {domains}"
        raise login_required(rules, why, session_required_single_domain=list(rules.domains), prompt="login")
    if rules.mfa:
        allowed = [each for each in allowed if each.mfa]
    if not allowed:
        why = "this service wants a login with a second factor"
        raise login_required(rules, why, session_required_mfa=True, prompt="login")
    own = _text(told, "sub")
    return max(allowed, key=lambda each: (each.id == own, each.at))


def _logins(told: Mapping[str, Any]) -> Iterator[_Login]:
    own, name = _text(told, "sub"), _text(told, "username")
    if own == told.get("client_id") and name == f"{own}@{CLIENTS_DOMAIN}":
        yield _Login(own, name, CLIENTS_DOMAIN, 0.0, mfa=False)
        return
    session = _map(told.get("session_info"), "session_info")
    identities = _identities(told)
    for id, each in _map(session.get("authentications"), "session_info.authentications").items():
        login, identity = _map(each, "an authentication"), identities.get(id)
        if identity is None or identity.get("identity_provider") != _text(login, "idp"):
            continue  # a login with something that is not an identity of the token's owner
        username = _text(identity, "username")
        domain = _domain(username)
        factors = login.get("amr")
        mfa = login.get("acr") == MFA or (isinstance(factors, list) and "mfa" in factors)
        yield _Login(id, username.lower(), domain, _number(login, "auth_time"), mfa=mfa)


def _identities(told: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All identities of the token's owner, by their ids."""
    if told.get("sub") == told.get("client_id"):
        return {}
    found = told.get("identity_set_detail")
    if not isinstance(found, list):
        raise _malformed("identity_set_detail", found)
    each = [_map(one, "an identity") for one in found]
    return {_text(one, "sub"): one for one in each}


def _domain(username: str) -> str:
    user, _, domain = username.rpartition("@")
    name = domain.lower()
    plain = name.isascii() and name.replace(".", "").replace("-", "").isalnum()
    if not user or " " in user or not username.isprintable() or not plain or len(username) > MOST_CHARACTERS:
        raise _malformed("a user name", username)
    return name


def _map(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _malformed(what, value)
    return value


def _text(of: Mapping[str, Any], name: str) -> str:
    value = of.get(name)
    if not isinstance(value, str) or not value:
        raise _malformed(name, value)
    return value


def _number(of: Mapping[str, Any], name: str) -> float:
    value = of.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise _malformed(name, value)
    return float(value)


def _no_answer(who: str) -> ServiceUnavailable:
    """Closed, and says nothing about the token: who is in may come again."""
    return ServiceUnavailable(f"{who} gives no answer that could be read; try again in a moment", retry_after_s=2.0)


def _malformed(what: str, value: object) -> AuthenticationError:
    return AuthenticationError(
        f"Globus's answer has no {what} that could be used, but {type(value).__name__}; nobody is let in on it"
    )
