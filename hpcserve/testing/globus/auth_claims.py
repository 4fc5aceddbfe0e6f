"""What Auth says about a token and its person: introspection, userinfo, id_token, and the key that signs it."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from hpcserve.testing.globus.auth_refusals import api_refusal, calling_client, calling_token
from hpcserve.testing.globus.http import Request, Response
from hpcserve.testing.globus.records import AUTH, Authentication, Person, Session, Token
from hpcserve.testing.globus.routes import Routes
from hpcserve.testing.globus.world import World

VIEW_IDENTITY_SET = f"urn:globus:auth:scope:{AUTH}:view_identity_set"


class Signer:
    """Makes id_tokens. They are signed by RS512 with a key that lasts as long as the process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        self.key_id = hashlib.sha256(str(self._key.public_key().public_numbers().n).encode()).hexdigest()[:16]

    def jwk(self) -> dict[str, Any]:
        """The public key."""
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"alg": "RS512", "e": public["e"], "kid": self.key_id, "kty": "RSA", "n": public["n"], "use": "sig"}

    def id_token(self, token: Token, audience: str, nonce: str) -> str:
        """Who the person of this access token is, for the client that got it."""
        half = hashlib.sha512(token.value.encode()).digest()[:32]
        claims = {
            **person_claims(self._world, token),
            "iss": self._world.issuer,
            "aud": audience,
            "iat": int(token.issued),
            "exp": int(token.expires),
            "at_hash": base64.urlsafe_b64encode(half).decode().rstrip("="),
            **({"nonce": nonce} if nonce else {}),
        }
        return jwt.encode(claims, self._key, algorithm="RS512", headers={"kid": self.key_id})


class Claims:
    """``introspect`` and ``userinfo``, and where to find what verifies an id_token."""

    prefixes = ("/v2/oauth2/token/introspect", "/v2/oauth2/userinfo", "/jwk.json", "/.well-known/")

    def __init__(self, world: World, signer: Signer) -> None:
        self._world = world
        self._signer = signer
        self._routes = Routes(
            ("GET", "/.well-known/openid-configuration", self._configuration),
            ("GET", "/jwk.json", lambda _request: Response(200, {"keys": [signer.jwk()]})),
            ("GET", "/v2/oauth2/userinfo", self._userinfo),
            ("POST", "/v2/oauth2/token/introspect", self._introspect),
        )

    def answer(self, request: Request) -> Response:
        """See the module."""
        with self._world.lock:
            return self._routes.answer(request)

    def _configuration(self, request: Request) -> Response:
        here = f"https://{request.headers.get('host', 'localhost')}"
        return Response(
            200,
            {
                "issuer": self._world.issuer,
                "authorization_endpoint": f"{here}/v2/oauth2/authorize",
                "token_endpoint": f"{here}/v2/oauth2/token",
                "revocation_endpoint": f"{here}/v2/oauth2/token/revoke",
                "userinfo_endpoint": f"{here}/v2/oauth2/userinfo",
                "jwks_uri": f"{here}/jwk.json",
                "scopes_supported": ["openid", "email", "profile"],
                "response_types_supported": ["code", "token", "token id_token", "id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS512"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "claims_supported": ["sub", "name", "email", "preferred_username", "iss", "aud", "exp", "iat"],
            },
        )

    def _userinfo(self, request: Request) -> Response:
        token = calling_token(self._world, request, AUTH)
        if "openid" not in token.scopes:
            raise api_refusal(403, "FORBIDDEN", "the scope openid is needed")
        return Response(200, person_claims(self._world, token))

    def _introspect(self, request: Request) -> Response:
        """Answers any client with a secret, also about tokens for somebody else: looking at ``aud`` is its duty."""
        calling_client(self._world, request)
        form = request.form()
        token = self._world.token(form.get("token", ""))
        if token is None:
            return Response(200, {"active": False})
        world, person = self._world, self._world.people[token.sub]
        include = form.get("include", "").split(",")
        answer: dict[str, Any] = {
            "active": True,
            "token_type": "Bearer",
            "scope": " ".join(token.scopes),
            "client_id": token.client_id,
            "username": person.username,
            "name": person.name,
            "email": person.email,
            "exp": int(token.expires),
            "iat": int(token.issued),
            "nbf": int(token.issued),
            "sub": token.sub,
            "aud": list(dict.fromkeys((token.resource_server, token.client_id))),
            "iss": world.issuer,
        }
        if "identity_set" in include:
            answer["identity_set"] = [each.id for each in world.identity_set(token.sub)]
        if "identity_set_detail" in include:
            answer["identity_set_detail"] = _identity_set(world, token)
        if "session_info" in include:
            answer["session_info"] = _session_info(token.session)
        policies = [each for each in form.get("authentication_policies", "").split(",") if each]
        if policies:
            now = world.now()
            answer["policy_evaluations"] = {
                each: {"evaluation": world.policies[each].holds(world.people, token.session, now)}
                for each in policies
                if each in world.policies
            }
        return Response(200, answer)


def person_claims(world: World, token: Token) -> dict[str, Any]:
    """What the scopes of this token let its bearer know about the person."""
    person = world.people[token.sub]
    claims: dict[str, Any] = {"sub": person.id}
    if "profile" in token.scopes:
        claims |= {
            "name": person.name,
            "preferred_username": person.username,
            "organization": person.organization,
            "identity_provider": person.identity_provider,
            "identity_provider_display_name": person.identity_provider_name,
            "last_authentication": _at(token.session.authentications.get(person.id)),
        }
    if "email" in token.scopes:
        claims |= {"email": person.email, "email_verified": True}
    if VIEW_IDENTITY_SET in token.scopes:
        claims["identity_set"] = _identity_set(world, token)
    return claims


def _identity_set(world: World, token: Token) -> list[dict[str, Any]]:
    logins = token.session.authentications
    return [_detail(person, logins.get(person.id)) for person in world.identity_set(token.sub)]


def _detail(person: Person, login: Authentication | None) -> dict[str, Any]:
    return {
        "sub": person.id,
        "username": person.username,
        "name": person.name,
        "email": person.email,
        "organization": person.organization,
        "identity_type": "login",
        "identity_provider": person.identity_provider,
        "identity_provider_display_name": person.identity_provider_name,
        "last_authentication": _at(login),
    }


def _session_info(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.id,
        "authentications": {
            identity: {
                "idp": login.idp,
                "auth_time": int(login.at),
                "acr": login.acr,
                "amr": list(login.amr),
                "custom_claims": login.custom_claims,
            }
            for identity, login in session.authentications.items()
        },
    }


def _at(login: Authentication | None) -> int | None:
    return None if login is None else int(login.at)
