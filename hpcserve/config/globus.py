"""``[globus]``: who is let in with ``auth = "globus"``, and by which client the service is known at Globus."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from hpcserve.config.section import Section

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")


class Globus(Section, frozen=True):
    """``[globus]``: the service's registration at Globus, and what it demands of those who come with a token.

    ``client_id`` is the service's own client, whose secret is in ``client_secret_file``; ``native_client_id`` the one
    by which users log in. ``scope`` is by default the client's scope ``all``. All ``required_policies`` must be met;
    the identity provider of the session must be of one of ``domains``, its owner in one of ``groups``; empty: of any,
    in none. Answers of Globus Auth are at most ``cache_s`` old, those of Globus Groups ``groups_cache_s``.

    ``sessions_per_identity``: so many sessions, and so many keys, one identity may have at once. ``hello_rate`` and
    ``hello_burst``: how often those whose token is not known yet may ask, all together.
    """

    client_id: str = ""
    client_secret_file: str = ""
    native_client_id: str = ""
    scope: str = ""
    issuer: str = "https://auth.globus.org"
    required_policies: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    require_mfa: bool = False
    ask_groups: bool = True
    cache_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 60.0
    groups_cache_s: Annotated[float, msgspec.Meta(ge=1, le=300)] = 300.0
    sessions_per_identity: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    hello_rate: Annotated[float, msgspec.Meta(gt=0)] = 200.0
    hello_burst: Annotated[float, msgspec.Meta(ge=1)] = 2000.0

    def __post_init__(self) -> None:
        for name in ("client_id", "native_client_id"):
            value = getattr(self, name)
            if value and not _UUID.fullmatch(value):
                raise ValueError(f"{name}: expected a client's id, a UUID in lower case, got {value!r}")
        for name, values in (("required_policies", self.required_policies), ("groups", self.groups)):
            for value in values:
                if not _UUID.fullmatch(value):
                    raise ValueError(f"{name}: expected ids, UUIDs in lower case, got {value!r}")
        for value in self.domains:
            if not _DOMAIN.fullmatch(value):
                raise ValueError(f"domains: expected names such as anl.gov, in lower case, got {value!r}")
        if self.groups and not self.ask_groups:
            raise ValueError("ask_groups: expected true, since groups names some, got false")
        if any(each.isspace() for each in self.scope):
            raise ValueError(f"scope: expected one scope, got {self.scope!r}")

    @property
    def service_scope(self) -> str:
        """The scope that a token must have."""
        return self.scope or f"https://auth.globus.org/scopes/{self.client_id}/all"
