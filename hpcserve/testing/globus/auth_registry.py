"""What Auth keeps a register of, under ``/v2/api``: identities, consents, clients, scopes, policies."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from hpcserve.testing.globus.auth_refusals import api_refusal, calling_client, calling_token
from hpcserve.testing.globus.http import Request, Response
from hpcserve.testing.globus.records import AUTH, Client, Consent, Dependent, Person, Policy, Scope
from hpcserve.testing.globus.routes import Routes
from hpcserve.testing.globus.world import World


class Registry:
    """Reading, and for scopes and policies writing. Who may read what, Auth decides more finely."""

    prefixes = ("/v2/api/",)

    def __init__(self, world: World) -> None:
        self._world = world
        self._routes = Routes(
            ("GET", "/v2/api/identities", self._identities),
            ("GET", "/v2/api/identity_providers", self._providers),
            ("GET", "/v2/api/identities/([^/]+)/consents", self._consents),
            ("GET", "/v2/api/clients/([^/]+)", self._client),
            ("POST", "/v2/api/clients/([^/]+)/scopes", self._new_scope),
            ("GET", "/v2/api/scopes", self._scopes),
            ("GET", "/v2/api/scopes/([^/]+)", self._scope),
            ("GET", "/v2/api/policies/([^/]+)", self._policy),
            ("POST", "/v2/api/policies", self._new_policy),
        )

    def answer(self, request: Request) -> Response:
        """See the module."""
        with self._world.lock:
            self._check(request)
            return self._routes.answer(request)

    def _check(self, request: Request) -> None:
        if request.basic()[0]:
            calling_client(self._world, request)
        else:
            calling_token(self._world, request, AUTH)

    # --- identities -------------------------------------------------------------------------------

    def _identities(self, request: Request) -> Response:
        wanted = [*_names(request, "ids"), *_names(request, "usernames")]
        people = [self._world.find_person(name) for name in wanted]
        return Response(200, {"identities": [_identity(person) for person in people if person]})

    def _providers(self, request: Request) -> Response:
        ids, domains = _names(request, "ids"), _names(request, "domains")
        found = {
            person.identity_provider: {
                "short_name": person.domain,
                "id": person.identity_provider,
                "alternative_names": [],
                "domains": [person.domain],
                "name": person.identity_provider_name,
            }
            for person in self._world.people.values()
            if person.identity_provider in ids or person.domain in domains
        }
        return Response(200, {"identity_providers": list(found.values())})

    def _consents(self, request: Request, identity: str) -> Response:
        world = self._world
        token = calling_token(world, request, AUTH)
        if identity not in {person.id for person in world.identity_set(token.sub)}:
            raise api_refusal(403, "FORBIDDEN", f"these are the consents of {identity}")
        everybody = request.one("all").lower() == "true"
        mine = [each for each in world.consents if each.identity == identity]
        ids = {(each.client_id, each.way): each.id for each in mine}
        return Response(
            200,
            {
                "consents": [
                    self._consent(each, [ids[each.client_id, each.way[:n]] for n in range(1, len(each.way) + 1)])
                    for each in mine
                    if everybody or each.client_id == token.client_id
                ]
            },
        )

    def _consent(self, consent: Consent, path: list[int]) -> dict[str, Any]:
        scope = self._world.scopes.get(consent.way[-1])
        client = consent.client_id if len(consent.way) == 1 else _id_of(self._world.resource_server(consent.way[-2]))
        return {
            "created": _date(consent.created),
            "id": consent.id,
            "status": "approved",
            "updated": _date(consent.created),
            "allows_refresh": consent.allows_refresh,
            "dependency_path": path,
            "scope_name": consent.way[-1],
            "atomically_revocable": len(path) > 1,
            "effective_identity": consent.identity,
            "auto_approved": False,
            "last_used": _date(self._world.now()),
            "scope": scope.id if scope else _id_of(consent.way[-1]),
            "client": client,
        }

    # --- clients, scopes, policies ----------------------------------------------------------------

    def _client(self, request: Request, name: str) -> Response:
        client = self._world.clients.get(name)
        if client is None:
            raise api_refusal(404, "NOT_FOUND", f"no client {name}")
        scopes = [each.id for each in self._world.scopes.values() if each.resource_server == name]
        return Response(200, {"client": _client(client, scopes)})

    def _new_scope(self, request: Request, client: str) -> Response:
        asked = request.json().get("scope", {})
        known = {scope.id: scope.scope for scope in self._world.scopes.values()}
        try:
            dependents = [
                Dependent(known[each["scope"]], each["optional"], each["requires_refresh_token"])
                for each in asked.get("dependent_scopes", [])
            ]
            scope = self._world.add_scope(client, asked["scope_suffix"], dependents, description=asked["description"])
            scope.name = asked["name"]
        except KeyError as error:
            raise api_refusal(422, "UNPROCESSABLE_ENTITY", f"a scope without, or of an unknown, {error}") from error
        return Response(201, {"scope": self._written(scope)})

    def _scopes(self, request: Request) -> Response:
        ids, strings = _names(request, "ids"), _names(request, "scope_strings")
        found = [
            self._written(each)
            for each in self._world.scopes.values()
            if each.id in ids or each.scope in strings or not (ids or strings)
        ]
        return Response(200, {"scopes": found})

    def _scope(self, request: Request, name: str) -> Response:
        found = next((each for each in self._world.scopes.values() if each.id == name), None)
        if found is None:
            raise api_refusal(404, "NOT_FOUND", f"no scope {name}")
        return Response(200, {"scope": self._written(found)})

    def _written(self, scope: Scope) -> dict[str, Any]:
        return {
            "scope_string": scope.scope,
            "allows_refresh_token": True,
            "id": scope.id,
            "advertised": False,
            "required_domains": [],
            "name": scope.name,
            "description": scope.description,
            "client": scope.resource_server,
            "dependent_scopes": [
                {
                    "scope": self._world.scopes[each.scope].id,
                    "optional": each.optional,
                    "requires_refresh_token": each.requires_refresh_token,
                }
                for each in scope.dependents
                if each.scope in self._world.scopes
            ],
        }

    def _policy(self, request: Request, name: str) -> Response:
        policy = self._world.policies.get(name)
        if policy is None:
            raise api_refusal(404, "NOT_FOUND", f"no policy {name}")
        return Response(200, {"policy": _policy(policy)})

    def _new_policy(self, request: Request) -> Response:
        asked = request.json().get("policy", {})
        include, exclude = (asked.get(f"domain_constraints_{each}") for each in ("include", "exclude"))
        policy = Policy(
            id=str(uuid.uuid4()),
            name=asked.get("display_name", ""),
            description=asked.get("description", ""),
            include=None if include is None else tuple(include),
            exclude=None if exclude is None else tuple(exclude),
            required_mfa=bool(asked.get("required_mfa")),
            high_assurance=bool(asked.get("high_assurance")),
            timeout_s=asked.get("authentication_assurance_timeout"),
        )
        return Response(201, {"policy": _policy(self._world.add_policy(policy))})


def _identity(person: Person) -> dict[str, Any]:
    return {
        "email": person.email,
        "id": person.id,
        "identity_provider": person.identity_provider,
        "identity_type": "login",
        "name": person.name,
        "organization": person.organization,
        "status": "used",
        "username": person.username,
    }


def _client(client: Client, scopes: list[str]) -> dict[str, Any]:
    native = client.secret is None
    grants = ["authorization_code", "client_credentials", "refresh_token", "urn:globus:auth:grant_type:dependent_token"]
    return {
        "required_idp": None,
        "name": client.name,
        "redirect_uris": list(client.redirect_uris),
        "links": {"privacy_policy": None, "terms_and_conditions": None},
        "scopes": scopes,
        "grant_types": ["authorization_code", "refresh_token"] if native else grants,
        "id": client.id,
        "prompt_for_named_grant": False,
        "fqdns": [],
        "project": _id_of("project"),
        "client_type": "public_installed_client" if native else "hybrid_confidential_client_resource_server",
        "visibility": "private",
        "parent_client": None,
        "userinfo_from_effective_identity": True,
        "preselect_idp": None,
        "public_client": native,
    }


def _policy(policy: Policy) -> dict[str, Any]:
    return {
        "high_assurance": policy.high_assurance,
        "domain_constraints_include": None if policy.include is None else list(policy.include),
        "display_name": policy.name,
        "description": policy.description,
        "id": policy.id,
        "domain_constraints_exclude": None if policy.exclude is None else list(policy.exclude),
        "project_id": _id_of("project"),
        "authentication_assurance_timeout": policy.timeout_s,
        "required_mfa": policy.required_mfa,
    }


def _id_of(name: str) -> str:
    """An id for what has none in the stand-in's world; the same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _date(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="microseconds")


def _names(request: Request, parameter: str) -> list[str]:
    return [name for name in request.one(parameter).split(",") if name]
