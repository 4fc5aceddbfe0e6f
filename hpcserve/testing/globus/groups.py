"""Groups: which ones somebody is in."""

from __future__ import annotations

from typing import Any

from hpcserve.testing.globus.http import Refusal, Request, Response
from hpcserve.testing.globus.records import GROUPS, GROUPS_VIEW, Group, Token
from hpcserve.testing.globus.routes import Routes
from hpcserve.testing.globus.world import World

ALL = f"urn:globus:auth:scope:{GROUPS}:all"


class Groups:
    """``GET /v2/groups/my_groups`` and ``GET /v2/groups/ID``."""

    prefixes = ("/v2/groups/",)

    def __init__(self, world: World) -> None:
        self._world = world
        self._routes = Routes(
            ("GET", "/v2/groups/my_groups", self._my_groups),
            ("GET", "/v2/groups/([^/]+)", self._group),
        )

    def answer(self, request: Request) -> Response:
        """See the module."""
        with self._world.lock:
            return self._routes.answer(request)

    def _my_groups(self, request: Request) -> Response:
        identities = self._identities(self._token(request))
        statuses = [each for each in request.one("statuses").split(",") if each]
        if statuses and "active" not in statuses:
            return Response(200, [])
        groups = self._world.groups.values()
        return Response(200, [_group(each, identities) for each in groups if identities.keys() & each.members.keys()])

    def _group(self, request: Request, name: str) -> Response:
        identities = self._identities(self._token(request))
        group = self._world.groups.get(name)
        if group is None or not identities.keys() & group.members.keys():
            raise Refusal(404, {"code": "NOT_FOUND", "message": f"no group {name} that you may see"})
        more = {"description": "", "subscription_id": None, "subscription_info": None}
        return Response(200, {**_group(group, identities), **more})

    def _token(self, request: Request) -> Token:
        token = self._world.token(request.bearer())
        if token is None:
            raise Refusal(401, {"code": "UNAUTHORIZED", "message": "Call must be authenticated"})
        if not {GROUPS_VIEW, ALL} & set(token.scopes):
            raise Refusal(403, {"code": "FORBIDDEN", "message": f"the scope {GROUPS_VIEW} is needed"})
        return token

    def _identities(self, token: Token) -> dict[str, str]:
        return {person.id: person.username for person in self._world.identity_set(token.sub)}


def _group(group: Group, identities: dict[str, str]) -> dict[str, Any]:
    return {
        "name": group.name,
        "parent_id": None,
        "id": group.id,
        "group_type": "regular",
        "enforce_session": False,
        "session_limit": 28_800,
        "session_timeouts": {},
        "my_memberships": [
            {
                "group_id": group.id,
                "identity_id": identity,
                "username": identities[identity],
                "role": role,
                "status": "active",
            }
            for identity, role in group.members.items()
            if identity in identities
        ],
        "policies": {"group_visibility": "private", "group_members_visibility": "managers"},
    }
