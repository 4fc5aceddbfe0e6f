"""The broker's part of staging: where a caller's results go, what its references mean, which files were written.

No file is looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpcserve.config import Site
from hpcserve.core.sessions import Session
from hpcserve.core.sitepaths import Collection, check_below, globus_uri, located, roots_of
from hpcserve.core.spelling import shortened
from hpcserve.core.tiers import AUTO, HTTPS, INLINE, STAGED
from hpcserve.daemon.access import own_directory
from hpcserve.errors import InvalidInput
from hpcserve.types import SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.hub import Asker, ResultStaged

REPLIES = (INLINE, AUTO, STAGED, HTTPS)
MOST_REFERENCES = 64


class Places(NamedTuple):
    """The paths of one site.

    Up to ``https_bytes`` a result can be fetched by HTTPS; ``transfers``: one can be brought to a collection.
    """

    directory: str
    roots: tuple[str, ...] = ()
    collections: tuple[Collection, ...] = ()
    service: bool = False
    https_bytes: int = 0
    transfers: bool = False

    def check(self, request: wire.Request, session: Session) -> tuple[str, ...]:
        """What a request says of files, checked: where its references are on the site.

        Raises:
            InvalidInput: It names what is no file.
            PermissionDenied: It names what its caller may not.
        """
        if request.reply not in REPLIES:
            raise InvalidInput(f"reply is {shortened(request.reply)}; expected one of {', '.join(REPLIES)}")
        if not request.references:
            return ()
        if len(request.references) > MOST_REFERENCES:
            raise InvalidInput(f"{len(request.references)} references in one request: at most {MOST_REFERENCES}")
        roots = self.readable(session)
        words = []
        for uri in request.references:
            found = located(uri, self.collections)
            check_below(found.path, roots, f"reference {shortened(uri)}")
            words.append(found.uri)
        return tuple(words)

    def readable(self, session: Session) -> tuple[str, ...]:
        """The directories that a caller's references may lead into."""
        own = self.own(session)
        return roots_of(own, self.directory, self.roots, service=self.service) if own else ()

    def own(self, session: Session) -> str:
        """The name of the caller's own directory; empty while it is not known who it is."""
        return own_directory(session.identity.identity) if isinstance(session.identity, Asker) else ""

    def news(self, result: wire.Result, sessions: dict[SessionId, Session]) -> ResultStaged | None:
        """What the controller has to know of a staged result; None: it is not where its caller's are."""
        staged = result.staged
        if staged is None:
            return None
        above, _, name = staged.path.rpartition("/")
        root, _, owner = above.rpartition("/")
        session = sessions.get(result.session)
        mine = session is None or not session.resumed or owner == self.own(session)
        if root != self.directory or not mine or not name or name.startswith("."):
            return None
        return ResultStaged(owner, name, staged.size_bytes)


def places_of(site: Site) -> Places:
    """The paths of ``site``."""
    staging = site.staging
    collections = tuple(Collection(each.id, each.prefix, each.kind, each.https) for each in staging.collections)
    transfers = site.auth == "globus" and globus_uri(f"{site.staging_dir}/any", collections) is not None
    by_https = transfers and globus_uri(f"{site.staging_dir}/any", [each for each in collections if each.https])
    return Places(
        site.staging_dir,
        _normal(staging.roots),
        collections,
        service=site.mode == "service",
        https_bytes=staging.https_limit_bytes if by_https else 0,
        transfers=transfers,
    )


def _normal(roots: Sequence[str]) -> tuple[str, ...]:
    return tuple(root.rstrip("/") or "/" for root in roots)
