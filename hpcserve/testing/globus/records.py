"""What the world of the stand-in is made of: people, groups, clients, policies, sessions, tokens, consents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

AUTH = "auth.globus.org"
GROUPS = "groups.api.globus.org"
TRANSFER = "transfer.api.globus.org"
TRANSFER_ALL = f"urn:globus:auth:scope:{TRANSFER}:all"
GROUPS_VIEW = f"urn:globus:auth:scope:{GROUPS}:view_my_groups_and_memberships"


@dataclass
class Person:
    """One identity. Those that a person has linked name each other in ``linked``."""

    id: str
    username: str
    name: str
    email: str
    identity_provider: str
    identity_provider_name: str
    organization: str = ""
    linked: set[str] = field(default_factory=set)
    second_factor: bool = False

    @property
    def domain(self) -> str:
        """The domain of the identity provider that vouches for this identity."""
        return self.username.rpartition("@")[2]


@dataclass
class Group:
    """A group and its members: ``member``, ``manager`` or ``admin``, by identity."""

    id: str
    name: str
    members: dict[str, str] = field(default_factory=dict)


@dataclass
class Client:
    """A registered application; ``secret`` is None for a native one, which uses PKCE instead."""

    id: str
    name: str
    secret: str | None = None
    redirect_uris: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dependent:
    """A scope that another one needs. One that is ``optional`` has to be asked for, as ``all[*data_access]`` does."""

    scope: str
    optional: bool = False
    requires_refresh_token: bool = False


@dataclass
class Scope:
    """A scope that a resource server has registered."""

    id: str
    scope: str
    resource_server: str
    name: str
    description: str = ""
    dependents: tuple[Dependent, ...] = ()


@dataclass
class Authentication:
    """One identity's login, as a session remembers it. ``at``: seconds since 1970."""

    idp: str
    at: float
    amr: tuple[str, ...] = ()
    acr: str | None = None
    custom_claims: dict[str, Any] = field(default_factory=dict)

    @property
    def with_mfa(self) -> bool:
        """Whether more than one factor was shown."""
        return "mfa" in self.amr


@dataclass
class Session:
    """What one browser has proved: ``authentications`` by identity."""

    id: str
    authentications: dict[str, Authentication] = field(default_factory=dict)

    def copy(self) -> Session:
        """As it stands now; a token keeps the session that it was issued in."""
        return Session(self.id, dict(self.authentications))


@dataclass
class Policy:
    """An authentication policy. ``timeout_s``: how old a login may be under high assurance."""

    id: str
    name: str
    description: str = ""
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    required_mfa: bool = False
    high_assurance: bool = False
    timeout_s: int | None = None

    def holds(self, people: dict[str, Person], session: Session, now: float) -> bool:
        """Whether one login of the session satisfies all of it."""
        return any(
            self.admits(people[identity].domain)
            and (login.with_mfa or not self.required_mfa)
            and (self.timeout_s is None or now - login.at <= self.timeout_s)
            for identity, login in session.authentications.items()
        )

    def admits(self, domain: str) -> bool:
        """Whether identities of this domain may satisfy it."""
        included = self.include is None or domain in self.include
        return included and not (self.exclude and domain in self.exclude)


@dataclass(frozen=True)
class Grant:
    """Where a token comes from: the client to which the person consented first, and the scopes on the way.

    The way is empty for that client itself, and longer by one scope for each dependent token.
    """

    client_id: str
    way: tuple[str, ...] = ()


@dataclass
class Token:
    """An access or refresh token. Times are seconds since 1970."""

    value: str
    sub: str
    client_id: str
    resource_server: str
    scopes: tuple[str, ...]
    issued: float
    expires: float
    session: Session
    grant: Grant
    active: bool = True
    refresh: bool = False


@dataclass
class Code:
    """What an authorization code stands for. ``challenge`` is empty without PKCE; ``issued``: its tokens, once used."""

    client_id: str
    redirect_uri: str
    challenge: str
    sub: str
    scopes: tuple[str, ...]
    session: Session
    offline: bool
    state: str | None
    nonce: str
    expires: float
    issued: list[str] | None = None


@dataclass
class Consent:
    """That ``identity`` lets ``client`` go this way: a scope, and the scopes below it."""

    id: int
    identity: str
    client_id: str
    way: tuple[str, ...]
    created: float
    allows_refresh: bool = False
