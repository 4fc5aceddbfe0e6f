"""The pages that a browser sees: authorize, and the one that shows the code to who logs in from a terminal.

Nobody has to click. The person that the world names as signed in logs in as far as they can (with a linked identity,
with a second factor), and consents to everything, unless the world says that they do not.
"""

from __future__ import annotations

import html
import secrets
from urllib.parse import urlencode, urlsplit

from hpcserve.testing.globus.http import Refusal, Request, Response
from hpcserve.testing.globus.records import Client, Code, Person, Policy
from hpcserve.testing.globus.routes import Routes
from hpcserve.testing.globus.scopes import Asked, parse
from hpcserve.testing.globus.world import World

CODE_S = 600.0
CODE_PAGE = "/v2/web/auth-code"
NATIVE_HOSTS = ("localhost", "127.0.0.1")


class LoginPages:
    """``GET /v2/oauth2/authorize`` and the page with the code."""

    prefixes = ("/v2/oauth2/authorize", "/v2/web/")

    def __init__(self, world: World) -> None:
        self._world = world
        self._routes = Routes(
            ("GET", "/v2/oauth2/authorize", self._authorize),
            ("GET", CODE_PAGE, self._show_code),
            ("GET", "/v2/web/logout", self._log_out),
        )

    def answer(self, request: Request) -> Response:
        """See the module."""
        with self._world.lock:
            return self._routes.answer(request)

    def _authorize(self, request: Request) -> Response:
        client = self._world.clients.get(request.one("client_id"))
        if client is None:
            raise _page(400, f"no client {request.one('client_id')!r} is registered")
        redirect_uri = request.one("redirect_uri")
        if not _may_redirect(client, redirect_uri):
            raise _page(400, f"{redirect_uri!r} is none of the redirect URIs of {client.name}")
        try:
            code = self._log_in(request, client, redirect_uri)
        except _Refused as refused:
            answer = {"error": refused.error, "error_description": str(refused)}
        else:
            answer = {"code": code}
        if state := request.one("state"):
            answer["state"] = state
        separator = "&" if urlsplit(redirect_uri).query else "?"
        return Response(302, "", {"location": f"{redirect_uri}{separator}{urlencode(answer)}"})

    def _log_in(self, request: Request, client: Client, redirect_uri: str) -> str:
        world = self._world
        if request.one("response_type") != "code":
            raise _Refused("unsupported_response_type", "response_type has to be 'code'")
        asked = self._scopes(request.one("scope"))
        challenge = request.one("code_challenge")
        if challenge and request.one("code_challenge_method") != "S256":
            raise _Refused("invalid_request", "code_challenge_method has to be 'S256'")
        if client.secret is None and not challenge:
            raise _Refused("invalid_request", f"{client.name} is a native client: a code_challenge is needed")
        person = world.signed_in
        if person is None:
            raise _Refused("access_denied", "nobody sits at the stand-in's browser: World.sign_in(person)")
        self._prove(request, person)
        if not world.approving:
            raise _Refused("access_denied", f"{person.username} does not consent")
        offline = request.one("access_type") == "offline"
        world.consent(person.id, client.id, asked, refresh=offline)
        assert world.browser is not None
        code = secrets.token_urlsafe(24)
        world.codes[code] = Code(
            client_id=client.id,
            redirect_uri=redirect_uri,
            challenge=challenge,
            sub=person.id,
            scopes=tuple(each.scope for each in asked),
            session=world.browser.copy(),
            offline=offline,
            state=request.one("state") or None,
            nonce=request.one("nonce"),
            expires=world.now() + CODE_S,
        )
        return code

    def _scopes(self, text: str) -> list[Asked]:
        try:
            asked = parse(text)
        except ValueError as error:
            raise _Refused("invalid_scope", str(error)) from error
        unknown = [each.scope for each in asked if not self._world.resource_server(each.scope)]
        if unknown or not asked:
            raise _Refused("invalid_scope", f"UNKNOWN_SCOPE_ERROR: {' '.join(unknown) or 'no scope'}")
        return asked

    # --- what the session has to prove ------------------------------------------------------------

    def _prove(self, request: Request, person: Person) -> None:
        """Log in as far as the parameters ask for it and the person can."""
        world = self._world
        assert world.browser is not None
        identities = world.identity_set(person.id)
        mfa = request.one("session_required_mfa").lower() == "true"
        if request.one("prompt") == "login":
            world.authenticate(person, mfa=mfa and person.second_factor)
        logins = world.browser.authentications
        for name in _names(request, "session_required_identities"):
            wanted = next((each for each in identities if name in {each.id, each.username}), None)
            if wanted is None:
                raise _Refused("access_denied", f"{name} is no identity of {person.username}")
            if wanted.id not in logins:
                world.authenticate(wanted, mfa=mfa and wanted.second_factor)
        domains = _names(request, "session_required_single_domain")
        if domains and not any(world.people[each].domain in domains for each in logins):
            wanted = next((each for each in identities if each.domain in domains), None)
            if wanted is None:
                raise _Refused("access_denied", f"{person.username} has no identity of {', '.join(domains)}")
            world.authenticate(wanted, mfa=mfa and wanted.second_factor)
        if mfa and not any(login.with_mfa for login in logins.values()):
            if not person.second_factor:
                raise _Refused("access_denied", f"{person.username} has no second factor")
            world.authenticate(person, mfa=True)
        for name in _names(request, "session_required_policies"):
            self._satisfy(world.policies.get(name), name, identities)

    def _satisfy(self, policy: Policy | None, name: str, identities: list[Person]) -> None:
        world = self._world
        if policy is None:
            raise _Refused("invalid_request", f"no policy {name}")
        assert world.browser is not None
        if policy.holds(world.people, world.browser, world.now()):
            return
        wanted = next((each for each in identities if policy.admits(each.domain)), None)
        if wanted is not None:
            world.authenticate(wanted, mfa=policy.required_mfa and wanted.second_factor)
        if not policy.holds(world.people, world.browser, world.now()):
            raise _Refused("access_denied", f"{identities[0].username} cannot satisfy the policy {policy.name!r}")

    # --- other pages ------------------------------------------------------------------------------

    def _show_code(self, request: Request) -> Response:
        if error := request.one("error"):
            raise _page(403, f"{error}: {request.one('error_description')}")
        code = html.escape(request.one("code"))
        return Response(200, f'<!doctype html><title>Code</title><p>Your code:</p><pre id="auth-code">{code}</pre>')

    def _log_out(self, request: Request) -> Response:
        self._world.signed_in = self._world.browser = None
        return Response(200, "<!doctype html><title>Logged out</title><p>Nobody is signed in.</p>")


class _Refused(Exception):
    """The login fails, and the client is told so by way of its redirect URI."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(reason)
        self.error = error


def _page(status: int, message: str) -> Refusal:
    return Refusal(status, f'<!doctype html><title>Error</title><p id="error">{html.escape(message)}</p>')


def _may_redirect(client: Client, uri: str) -> bool:
    parts = urlsplit(uri)
    if uri in client.redirect_uris:
        return True
    if parts.path == CODE_PAGE and parts.hostname in NATIVE_HOSTS:
        return True
    return client.secret is None and parts.scheme == "http" and parts.hostname in NATIVE_HOSTS


def _names(request: Request, parameter: str) -> list[str]:
    return [name for name in request.one(parameter).split(",") if name]
