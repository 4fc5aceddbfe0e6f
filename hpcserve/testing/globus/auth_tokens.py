"""``POST /v2/oauth2/token`` in its four grants, and ``POST /v2/oauth2/token/revoke``."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from hpcserve.testing.globus.auth_claims import Signer
from hpcserve.testing.globus.auth_refusals import calling_client, dependent_consent_required, oauth_refusal
from hpcserve.testing.globus.http import Request, Response
from hpcserve.testing.globus.records import AUTH, Client, Code, Grant, Session, Token
from hpcserve.testing.globus.routes import Routes
from hpcserve.testing.globus.scopes import Asked, parse
from hpcserve.testing.globus.world import World

DEPENDENT = "urn:globus:auth:grant_type:dependent_token"


class TokenEndpoint:
    """Gives tokens for codes, secrets, refresh tokens and other tokens."""

    prefixes = ("/v2/oauth2/token",)

    def __init__(self, world: World, signer: Signer) -> None:
        self._world = world
        self._signer = signer
        self._grants: dict[str, Callable[[Request, dict[str, str]], dict[str, Any] | list[Any]]] = {
            "authorization_code": self._code,
            "client_credentials": self._credentials,
            "refresh_token": self._refresh,
            DEPENDENT: self._dependent,
        }
        self._routes = Routes(
            ("POST", "/v2/oauth2/token", self._token),
            ("POST", "/v2/oauth2/token/revoke", self._revoke),
        )

    def answer(self, request: Request) -> Response:
        """See the module."""
        with self._world.lock:
            return self._routes.answer(request)

    def _token(self, request: Request) -> Response:
        form = request.form()
        grant = self._grants.get(form.get("grant_type", ""))
        if grant is None:
            raise oauth_refusal(400, "unsupported_grant_type", f"grant_type {form.get('grant_type')!r}")
        return Response(200, grant(request, form))

    def _revoke(self, request: Request) -> Response:
        form = request.form()
        client = self._client(request, form)
        token = self._world.tokens.get(form.get("token", ""))
        if token is not None and token.client_id == client.id:
            self._world.revoke(token.value)
        return Response(200, {"active": False})

    # --- the grants -------------------------------------------------------------------------------

    def _code(self, request: Request, form: dict[str, str]) -> dict[str, Any]:
        client = self._client(request, form)
        code = self._world.codes.get(form.get("code", ""))
        if code is not None and code.issued is not None:
            for value in code.issued:
                self._world.revoke(value)
            raise oauth_refusal(401, "invalid_grant", "this code was used before; its tokens are revoked")
        if code is None or code.expires <= self._world.now() or code.client_id != client.id:
            raise oauth_refusal(401, "invalid_grant", "no such code, or not any more, or not for this client")
        if code.redirect_uri != form.get("redirect_uri", ""):
            raise oauth_refusal(401, "invalid_grant", "redirect_uri is not that of the login")
        if not _verified(code, form.get("code_verifier", "")):
            raise oauth_refusal(401, "invalid_grant", "code_verifier does not fit the code_challenge")
        tokens = self._issue(code.sub, client, code.scopes, code.session, refresh=code.offline)
        code.issued = [token.value for pair in tokens for token in pair if token]
        answer = self._answer(tokens, client, code.nonce)
        return answer if code.state is None else {**answer, "state": code.state}

    def _credentials(self, request: Request, form: dict[str, str]) -> dict[str, Any]:
        client = calling_client(self._world, request)
        asked = self._scopes(form.get("scope", ""))
        self._world.consent(client.id, client.id, asked)
        tokens = self._issue(client.id, client, [each.scope for each in asked], None, refresh=False)
        return self._answer(tokens, client)

    def _refresh(self, request: Request, form: dict[str, str]) -> dict[str, Any]:
        client = self._client(request, form)
        refresh = self._world.tokens.get(form.get("refresh_token", ""))
        if refresh is None or not (refresh.refresh and refresh.active) or refresh.client_id != client.id:
            raise oauth_refusal(401, "invalid_grant", "no such refresh token, or not any more, or not of this client")
        access = self._world.issue(refresh.sub, client.id, refresh.scopes, session=refresh.session, grant=refresh.grant)
        return self._answer([(access, refresh)], client)

    def _dependent(self, request: Request, form: dict[str, str]) -> list[dict[str, Any]]:
        """Auth does not say whether it gives refresh tokens to whose login was not offline: here it does not."""
        client = calling_client(self._world, request)
        token = self._world.token(form.get("token", ""))
        if token is None or token.resource_server != client.id:
            raise oauth_refusal(401, "invalid_grant", "no active token for this client")
        offline = form.get("access_type") == "offline"
        agreed = {way: self._agreed(token, way, offline=offline) for way in _ways(token)}
        everything = set().union(*agreed.values())
        if "scope" in form:
            wanted = {each.scope for each in self._scopes(form["scope"])}
            missing = [_written((*_ways(token)[0], each)) for each in sorted(wanted - everything)]
        else:
            wanted = everything
            missing = [_written((*way, each)) for way in agreed for each in sorted(self._needed(way[-1]) - agreed[way])]
        if missing:
            raise dependent_consent_required(missing)
        return [
            _described(access, refresh)
            for way, scopes in agreed.items()
            for access, refresh in self._issue(
                token.sub,
                client,
                sorted(scopes & wanted),
                token.session,
                grant=Grant(token.grant.client_id, way),
                refresh=offline,
            )
        ]

    # --- what they share --------------------------------------------------------------------------

    def _client(self, request: Request, form: dict[str, str]) -> Client:
        """Who asks: a confidential client by its secret, a native one by its name alone."""
        client = self._world.clients.get(form.get("client_id", ""))
        if client is not None and client.secret is None and not request.basic()[0]:
            return client
        return calling_client(self._world, request)

    def _scopes(self, text: str) -> list[Asked]:
        try:
            asked = parse(text)
        except ValueError as error:
            raise oauth_refusal(400, "invalid_scope", str(error)) from error
        unknown = [each.scope for each in asked if not self._world.resource_server(each.scope)]
        if unknown or not asked:
            raise oauth_refusal(400, "invalid_scope", f"unknown: {' '.join(unknown) or 'no scope'}")
        return asked

    def _agreed(self, token: Token, way: tuple[str, ...], *, offline: bool) -> set[str]:
        return {
            each.way[-1]
            for each in self._world.consents
            if (each.identity, each.client_id, each.way[:-1]) == (token.sub, token.grant.client_id, way)
            and (each.allows_refresh or not offline)
        }

    def _needed(self, scope: str) -> set[str]:
        registered = self._world.scopes.get(scope)
        return {each.scope for each in registered.dependents if not each.optional} if registered else set()

    def _issue(
        self,
        sub: str,
        client: Client,
        scopes: Iterable[str],
        session: Session | None,
        *,
        grant: Grant | None = None,
        refresh: bool,
    ) -> list[tuple[Token, Token | None]]:
        """An access token, and where asked for a refresh token, for each resource server; Auth's own comes first."""
        servers: dict[str, list[str]] = {}
        for scope in scopes:
            servers.setdefault(self._world.resource_server(scope), []).append(scope)
        world = self._world
        return [
            (
                world.issue(sub, client.id, each, session=session, grant=grant),
                world.issue(sub, client.id, each, session=session, grant=grant, refresh=True) if refresh else None,
            )
            for _, each in sorted(servers.items(), key=lambda item: (item[0] != AUTH, item[0]))
        ]

    def _answer(self, tokens: list[tuple[Token, Token | None]], client: Client, nonce: str = "") -> dict[str, Any]:
        first, *others = [_described(*pair) for pair in tokens]
        access = tokens[0][0]
        if access.resource_server == AUTH and "openid" in access.scopes:
            first["id_token"] = self._signer.id_token(access, client.id, nonce)
        return {**first, "other_tokens": others}


def _ways(token: Token) -> list[tuple[str, ...]]:
    """The way to each of a token's scopes."""
    return [(*token.grant.way, scope) for scope in token.scopes]


def _described(access: Token, refresh: Token | None) -> dict[str, Any]:
    described = {
        "access_token": access.value,
        "scope": " ".join(access.scopes),
        "expires_in": round(access.expires - access.issued),
        "token_type": "Bearer",
        "resource_server": access.resource_server,
    }
    return {**described, "refresh_token": refresh.value} if refresh else described


def _verified(code: Code, verifier: str) -> bool:
    digest = hashlib.sha256(verifier.encode()).digest()
    return not code.challenge or base64.urlsafe_b64encode(digest).decode().rstrip("=") == code.challenge


def _written(way: tuple[str, ...]) -> str:
    """``("a", "b", "c")`` is ``a[b[c]]``."""
    return "[".join(way) + "]" * (len(way) - 1)
