"""A stand-in with somebody signed in, a service with its two clients, and a group: what tests of Globus begin with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import globus_sdk

from hpcserve.testing.globus import LoopbackGlobus
from hpcserve.testing.globus.browser import log_in
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Client, Dependent, Group, Person
from hpcserve.testing.globus.world import World

SECRET = "of-the-service"


@dataclass(frozen=True)
class Setting:
    """``scope`` is the service's own; it needs the groups, and if asked for Transfer."""

    globus: LoopbackGlobus
    person: Person
    group: Group
    service: Client
    native: Client
    scope: str

    @property
    def world(self) -> World:
        return self.globus.world

    @property
    def ca(self) -> str:
        return self.globus.environment["GLOBUS_SDK_VERIFY_SSL"]

    def confidential(self, secret: str = SECRET) -> globus_sdk.ConfidentialAppAuthClient:
        """The service, as it speaks to Auth."""
        return globus_sdk.ConfidentialAppAuthClient(self.service.id, secret)

    def flow(self, scopes: str = "", *, offline: bool = False) -> globus_sdk.NativeAppAuthClient:
        """A login from a terminal, as far as the address that the user opens."""
        client = globus_sdk.NativeAppAuthClient(self.native.id)
        client.oauth2_start_flow(requested_scopes=scopes or f"openid {self.scope}", refresh_tokens=offline)
        return client

    def code(self, client: globus_sdk.NativeAppAuthClient, **asked: Any) -> str:
        """What the user pastes, after a login that asks for more than usual."""
        return log_in(client.oauth2_get_authorize_url(**asked), self.ca)

    def tokens(self, scopes: str = "", *, offline: bool = False, **asked: Any) -> globus_sdk.OAuthTokenResponse:
        """A whole login."""
        client = self.flow(scopes, offline=offline)
        return client.oauth2_exchange_code_for_tokens(self.code(client, **asked))

    def token(self, scopes: str = "", *, offline: bool = False, **asked: Any) -> str:
        """An access token for the service."""
        tokens = self.tokens(scopes, offline=offline, **asked)
        return str(tokens.by_resource_server[self.service.id]["access_token"])


@contextlib.contextmanager
def standing_in(directory: Path) -> Iterator[Setting]:
    """One of its own. Who speaks to it needs ``Setting.globus.environment``."""
    with LoopbackGlobus(directory) as globus:
        world = globus.world
        person = world.add_person("ada@lab.example", "Ada Lovelace")
        world.sign_in(person)
        service = world.add_client("hpcserve", secret=SECRET)
        native = world.add_client("hpcserve login")
        needed = (Dependent(GROUPS_VIEW), Dependent(TRANSFER_ALL, optional=True))
        scope = world.add_scope(service.id, dependents=needed).scope
        yield Setting(globus, person, world.add_group("users", [person]), service, native, scope)
