"""Who and what there is in the stand-in: tests change it, and the services answer from it.

Nothing here knows HTTP. All of it is guarded by ``lock``, since the server answers in many threads.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hpcserve.testing.globus.records import (
    GROUPS_VIEW,
    TRANSFER_ALL,
    Authentication,
    Client,
    Code,
    Consent,
    Dependent,
    Grant,
    Group,
    Person,
    Policy,
    Scope,
    Session,
    Token,
)
from hpcserve.testing.globus.scopes import Asked, parse, resource_server

LIFETIME_S = 172_800
ISSUER = "https://auth.globus.org"


class World:
    """People, groups, clients, scopes, policies, consents and tokens."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.people: dict[str, Person] = {}
        self.groups: dict[str, Group] = {}
        self.clients: dict[str, Client] = {}
        self.scopes: dict[str, Scope] = {}
        self.policies: dict[str, Policy] = {}
        self.tokens: dict[str, Token] = {}
        """Access and refresh tokens, by their value."""
        self.codes: dict[str, Code] = {}
        self.consents: list[Consent] = []
        self.browser: Session | None = None
        """Who is signed in at the browser that comes to the authorize page."""
        self.signed_in: Person | None = None
        self.approving = True
        """Whether who sits there consents to what is asked."""
        self.lifetime_s = LIFETIME_S
        """Of the access tokens that are issued from now on."""
        self.issuer = ISSUER
        self.ahead_s = 0.0
        """How far this world's clock is ahead of the machine's."""
        self._providers: dict[str, str] = {}
        self._last_consent = 0
        for scope in (TRANSFER_ALL, GROUPS_VIEW):
            self._register(scope, ())

    def now(self) -> float:
        """Seconds since 1970, by this world's clock."""
        return time.time() + self.ahead_s

    # --- who there is -----------------------------------------------------------------------------

    def add_person(self, username: str, name: str = "", *, identity: str = "", second_factor: bool = False) -> Person:
        """A new identity ``USER@DOMAIN``; one provider vouches for all of a domain."""
        with self.lock:
            user, _, domain = username.rpartition("@")
            provider = self._providers.setdefault(domain, str(uuid.uuid4()))
            person = Person(
                identity or str(uuid.uuid4()),
                username,
                name or user.title(),
                username,
                provider,
                f"Login of {domain}",
                organization=domain,
                second_factor=second_factor,
            )
            self.people[person.id] = person
            return person

    def link(self, *people: Person) -> None:
        """Make these the identities of one person."""
        with self.lock:
            everybody = {person.id for person in people}.union(*(person.linked for person in people))
            for identity in everybody:
                self.people[identity].linked = everybody - {identity}

    def identity_set(self, identity: str) -> list[Person]:
        """This identity first, then those that are linked to it."""
        person = self.people[identity]
        return [person, *(self.people[each] for each in sorted(person.linked))]

    def find_person(self, name: str) -> Person | None:
        """By id or by username."""
        return self.people.get(name) or next((p for p in self.people.values() if p.username == name), None)

    def add_group(self, name: str, members: Iterable[Person] = (), *, group: str = "") -> Group:
        """A new group with these members."""
        with self.lock:
            made = Group(group or str(uuid.uuid4()), name, {person.id: "member" for person in members})
            self.groups[made.id] = made
            return made

    def add_client(
        self, name: str, *, secret: str | None = None, redirect_uris: Sequence[str] = (), client: str = ""
    ) -> Client:
        """Register an application: a native one, or a confidential one if there is a secret.

        A confidential one is an identity too, as ``ID@clients.auth.globus.org``.
        """
        with self.lock:
            made = Client(client or str(uuid.uuid4()), name, secret, tuple(redirect_uris))
            self.clients[made.id] = made
            if secret is not None:
                self.add_person(f"{made.id}@clients.auth.globus.org", name, identity=made.id)
            return made

    def add_scope(
        self, client: str, name: str = "all", dependents: Iterable[Dependent] = (), *, description: str = ""
    ) -> Scope:
        """Register ``https://auth.globus.org/scopes/CLIENT/NAME``; a collection is a client here too."""
        scope = self._register(f"https://auth.globus.org/scopes/{client}/{name}", tuple(dependents))
        scope.description = description
        return scope

    def add_policy(self, policy: Policy) -> Policy:
        """Make an authentication policy known."""
        with self.lock:
            self.policies[policy.id] = policy
            return policy

    # --- the browser ------------------------------------------------------------------------------

    def sign_in(self, person: Person, *, mfa: bool = False) -> Session:
        """Have this person, and nobody else, sit at the browser, with a new session."""
        with self.lock:
            self.signed_in = person
            self.browser = Session(str(uuid.uuid4()))
            self.authenticate(person, mfa=mfa)
            return self.browser

    def authenticate(self, person: Person, *, mfa: bool = False) -> None:
        """Log one of the person's identities in (again) to the browser's session."""
        with self.lock:
            if self.browser is None:
                raise ValueError(f"nobody sits at the browser who could log in as {person.username}")
            amr = ("pwd", "mfa") if mfa else ("pwd",)
            self.browser.authentications[person.id] = Authentication(person.identity_provider, self.now(), amr)

    # --- consents ---------------------------------------------------------------------------------

    def consent(self, identity: str, client: str, asked: Iterable[Asked], *, refresh: bool = False) -> None:
        """Write down all that is asked for, and what the scopes themselves need."""
        with self.lock:
            for each in asked:
                self._consent(identity, client, (each.scope,), each.below, refresh=refresh)

    def consented(self, token: Token, *scopes: str) -> bool:
        """Whether the person of this token agreed that its bearer may go on by these scopes, one below the other."""
        way = (*token.grant.way, *scopes)
        with self.lock:
            return any(
                each.way == way and each.identity == token.sub and each.client_id == token.grant.client_id
                for each in self.consents
            )

    def withdraw(self, identity: str, client: str = "", scope: str = "") -> None:
        """Take consents back: all, those for one client, or those whose way goes by one scope.

        Tokens that came by them are revoked.
        """
        with self.lock:
            gone = {
                (each.identity, each.client_id, each.way)
                for each in self.consents
                if each.identity == identity and client in {"", each.client_id} and (not scope or scope in each.way)
            }
            self.consents = [each for each in self.consents if (each.identity, each.client_id, each.way) not in gone]
            for token in self.tokens.values():
                ways = {(token.sub, token.grant.client_id, (*token.grant.way, each)) for each in token.scopes}
                token.active = token.active and not ways & gone

    # --- tokens -----------------------------------------------------------------------------------

    def issue(
        self,
        identity: str,
        client: str,
        scopes: Iterable[str],
        *,
        session: Session | None = None,
        grant: Grant | None = None,
        refresh: bool = False,
    ) -> Token:
        """A new token for scopes of one resource server. Consents are the caller's to look after."""
        named = tuple(scopes)
        servers = {self.resource_server(scope) for scope in named}
        if len(servers) != 1 or "" in servers:
            raise ValueError(f"scopes of one resource server expected, got {' '.join(named)!r}")
        with self.lock:
            now = self.now()
            token = Token(
                value="Ag" + secrets.token_urlsafe(48),
                sub=identity,
                client_id=client,
                resource_server=servers.pop(),
                scopes=named,
                issued=now,
                expires=float("inf") if refresh else now + self.lifetime_s,
                session=session or Session(str(uuid.uuid4())),
                grant=grant or Grant(client),
                refresh=refresh,
            )
            self.tokens[token.value] = token
            return token

    def token_for(
        self, person: Person, client: Client, scope: str, *, mfa: bool = False, by: Person | None = None
    ) -> Token:
        """A token as a login would give it, with a session and the consents, without a browser: for tests.

        ``by``: the linked identity that logged in, where it is another than the person's first.
        """
        with self.lock:
            amr = ("pwd", "mfa") if mfa else ("pwd",)
            used = by or person
            login = Authentication(used.identity_provider, self.now(), amr)
            asked = parse(scope)
            self.consent(person.id, client.id, asked)
            session = Session(str(uuid.uuid4()), {used.id: login})
            return self.issue(person.id, client.id, [each.scope for each in asked], session=session)

    def token(self, value: str) -> Token | None:
        """The access token of this value, if it is active. A copy: it does not change any more."""
        with self.lock:
            token = self.tokens.get(value)
            if token is None or token.refresh or not token.active or token.expires <= self.now():
                return None
            return replace(token)

    def revoke(self, value: str) -> None:
        """Make one token worthless; of a refresh token all that came by the same grant."""
        with self.lock:
            token = self.tokens.get(value)
            if token is None:
                return
            token.active = False
            for each in self.tokens.values() if token.refresh else ():
                if (each.sub, each.grant, each.scopes) == (token.sub, token.grant, token.scopes):
                    each.active = False

    def expire(self, value: str) -> None:
        """Let a token's time be up."""
        with self.lock:
            self.tokens[value].expires = self.now()

    # --- inside -----------------------------------------------------------------------------------

    def resource_server(self, scope: str) -> str:
        """Whose scope it is; empty if there is none such. A client's own scopes have to be registered."""
        owner = resource_server(scope)
        return owner if scope in self.scopes or not scope.startswith("https://") else ""

    def _register(self, scope: str, dependents: tuple[Dependent, ...]) -> Scope:
        with self.lock:
            name = scope.rpartition("/")[2]
            made = Scope(str(uuid.uuid4()), scope, resource_server(scope), name, dependents=dependents)
            self.scopes[scope] = made
            return made

    def _consent(
        self, identity: str, client: str, way: tuple[str, ...], below: Iterable[Asked], *, refresh: bool
    ) -> None:
        known = next((c for c in self.consents if (c.identity, c.client_id, c.way) == (identity, client, way)), None)
        if known is None:
            self._last_consent += 1
            self.consents.append(Consent(self._last_consent, identity, client, way, self.now(), refresh))
        else:
            known.allows_refresh = known.allows_refresh or refresh
        asked = {each.scope: each.below for each in below}
        registered = self.scopes.get(way[-1])
        for dependent in registered.dependents if registered else ():
            if not dependent.optional:
                asked.setdefault(dependent.scope, [])
        for scope, further in asked.items():
            if scope not in way:
                self._consent(identity, client, (*way, scope), further, refresh=refresh)
