"""Collections: a directory each, who may do what in it, and what is wrong with it today."""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from hpcserve.testing.globus.movers import Place
from hpcserve.testing.globus.records import Dependent
from hpcserve.testing.globus.world import World

Permission = Literal["r", "rw"]


class Kind(Enum):
    """What a collection is; the value is its ``entity_type``."""

    MAPPED = "GCSv5_mapped_collection"
    """A facility's: each user is an account there, and consents that Transfer acts for them (``data_access``)."""
    GUEST = "GCSv5_guest_collection"
    """A directory that somebody shares by access rules."""
    PERSONAL = "GCP_mapped_collection"
    """A laptop's (Globus Connect Personal): its owner's alone, now and then offline."""


class NotAllowed(Exception):
    """A path leads out of the collection, or somebody may not."""


@dataclass(frozen=True)
class Caller:
    """Who asks: an identity, those linked to it, and the groups of them all."""

    identity: str
    username: str = ""
    linked: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    @property
    def identities(self) -> frozenset[str]:
        """Every identity of this person."""
        return self.linked | {self.identity}


@dataclass(frozen=True)
class Rule:
    """Who else may read or write below a path of a guest collection, which ends with ``/``."""

    id: str
    principal_type: str
    principal: str
    path: str
    permissions: Permission

    def grants(self, caller: Caller, path: str, permission: Permission) -> bool:
        """Whether it lets this caller do this there."""
        principals: Iterable[str] = {
            "identity": caller.identities,
            "group": caller.groups,
            "all_authenticated_users": [self.principal],
        }.get(self.principal_type, ())
        below = f"{path.rstrip('/')}/".startswith(self.path)
        return self.principal in principals and below and permission in ("r", self.permissions)


@dataclass
class Trouble:
    """What is wrong with a collection; a test changes it at any time."""

    offline: bool = False
    """A laptop is closed: tasks wait for it."""
    gone: bool = False
    """Nobody answers there: tasks try again until their deadline."""
    read_only: bool = False
    quota_bytes: int | None = None
    """How much may lie there in all."""
    corrupt: int = 0
    """How many of the next files get a wrong byte as they are written here, or read by HTTPS; below 0: all."""
    cut: int = 0
    """How many of the next files that are read by HTTPS end in the middle."""
    stalled: bool = False
    """Nothing moves, and nobody says so."""
    bytes_per_s: float | None = None
    """How fast it is at most."""
    fatal: str | None = None
    """The code with which every task fails that meets this collection."""
    expired: bool = False
    """Credentials expired: tasks become INACTIVE. Over with :meth:`Collection.renew`, or a new token of the owner's."""
    required_scopes: list[str] = field(default_factory=list)
    """Consents asked for, whatever was consented to."""
    authorization_parameters: dict[str, Any] | None = None
    """What a session must bring first (``session_message``, ``session_required_mfa`` …)."""


@dataclass
class Collection:
    """A collection. ``users`` are the identities with an account on a mapped one; None: everybody has one."""

    root: Path
    owner: str
    kind: Kind = Kind.MAPPED
    name: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    users: frozenset[str] | None = None
    https: bool = True
    consent: bool = True
    """Whether a mapped one asks for the ``data_access`` consent."""
    domain: str = ""
    """Of high assurance: who acts here has proved, in the session of the very program that asks, an identity of this
    domain. What a service has by a dependent token is no session of its own."""
    host: str | None = None
    """The mapped collection that a guest collection lies on."""
    rules: dict[str, Rule] = field(default_factory=dict)
    trouble: Trouble = field(default_factory=Trouble)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self.name = self.name or f"{self.kind.name.lower()} collection"

    @property
    def data_access(self) -> str:
        """The scope by which somebody lets a service act for them here."""
        return f"https://auth.globus.org/scopes/{self.id}/data_access"

    @property
    def https_scope(self) -> str:
        """The scope of tokens that this collection takes itself."""
        return f"https://auth.globus.org/scopes/{self.id}/https"

    @property
    def needs_data_access(self) -> bool:
        """Whether Transfer must have been allowed to act here for a user."""
        return self.kind is Kind.MAPPED and self.consent

    def place(self, path: str) -> Place:
        """Where a collection's path lies.

        Raises:
            NotAllowed: Outside of the collection, by itself or by a symbolic link.
        """
        local = (self.root / normal(path).lstrip("/")).resolve()
        if not local.is_relative_to(self.root):
            raise NotAllowed(f"{path}: Path not allowed.")
        return Place(self.root, local)

    def allow(self, caller: Caller, path: str, permission: Permission) -> Place:
        """Where a path lies, for somebody who may do this there.

        Raises:
            NotAllowed: They may not, or the path leads out of the collection.
        """
        if permission == "rw" and self.trouble.read_only:
            raise NotAllowed(f"{path}: Read-only file system")
        if not self._may(caller, normal(path), permission):
            raise NotAllowed(f"{path}: Permission denied")
        return self.place(path)

    def sees(self, caller: Caller) -> bool:
        """Whether somebody has any right here."""
        rules = self.rules.values()
        return self._may(caller, "/", "r") or any(rule.grants(caller, rule.path, "r") for rule in rules)

    def room_bytes(self, path: Path) -> int | None:
        """How large a file may become there, which replaces one that is there; None: there is no quota."""
        if self.trouble.quota_bytes is None:
            return None
        others = (each for each in self.root.rglob("*") if each.is_file() and each != path)
        return max(0, self.trouble.quota_bytes - sum(each.lstat().st_size for each in others))

    def spoil(self, path: Path) -> None:
        """Get one byte of a file wrong that was just written here, if told to."""
        if not (size := path.stat().st_size) or not self.goes_wrong():
            return
        with open(path, "r+b") as file:
            file.seek(size // 2)
            [byte] = file.read(1)
            file.seek(size // 2)
            file.write(bytes([byte ^ 0xFF]))

    def goes_wrong(self) -> bool:
        """Whether the file at hand is one of those that are told to; it counts as one."""
        corrupt = self.trouble.corrupt
        self.trouble.corrupt -= corrupt > 0
        return corrupt != 0

    def _may(self, caller: Caller, path: str, permission: Permission) -> bool:
        if self.owner in caller.identities:
            return True
        if self.kind is Kind.MAPPED:
            return self.users is None or not self.users.isdisjoint(caller.identities)
        return any(rule.grants(caller, path, permission) for rule in self.rules.values())


def normal(path: str) -> str:
    """A collection's path from its top, without ``.`` and double slashes; ``~`` is the top.

    Raises:
        NotAllowed: It goes up, or holds what no path holds.
    """
    parts = [part for part in path.removeprefix("/~").removeprefix("~").split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise NotAllowed(f"{path!r}: Path not allowed.")
    return posixpath.join("/", *parts)


class Collections:
    """All collections, by id.

    Args:
        world: Where their scopes are registered.
        directory: Below this lie the files of those that are given no directory.
    """

    def __init__(self, world: World, directory: Path) -> None:
        self._world = world
        self._directory = directory
        self._all: dict[str, Collection] = {}

    def __iter__(self) -> Iterator[Collection]:
        return iter(list(self._all.values()))

    def __getitem__(self, collection_id: str) -> Collection:
        return self._all[collection_id]

    def get(self, collection_id: str) -> Collection | None:
        """The one with this id."""
        return self._all.get(collection_id)

    def open(
        self,
        name: str,
        owner: str,
        kind: Kind = Kind.MAPPED,
        *,
        root: Path | None = None,
        host: str | None = None,
        collection: str = "",
    ) -> Collection:
        """A new collection, with the scopes that a client may ask for.

        Args:
            name: Shown to people.
            owner: The identity whose it is.
            kind: What it is.
            root: The directory that it shows, made if it is not there.
            host: The mapped collection that a guest collection lies on.
            collection: Its id; empty: a new one.
        """
        id = collection or str(uuid.uuid4())
        made = Collection(root or self._directory / name.replace("/", "-"), owner, kind, name, id, host=host)
        made.root.mkdir(parents=True, exist_ok=True)
        self._world.add_scope(made.id, "data_access")
        needs = [Dependent(made.data_access, optional=True)] if made.needs_data_access else []
        self._world.add_scope(made.id, "https", needs)
        self._all[made.id] = made
        return made

    def close(self, collection_id: str) -> None:
        """Show one no more; its directory stays."""
        del self._all[collection_id]
