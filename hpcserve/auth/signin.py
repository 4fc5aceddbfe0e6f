"""Logging in at Globus, renewing a login and ending one, by the Globus SDK. Blocks; the only user of it in a client.

Each login has an app of its own (the SDK's are not thread-safe) that keeps its tokens in memory: what comes of it is
one :class:`hpcserve.auth.tokens.Kept`, which replaces what there was only when all has gone well. Of the SDK's errors
it makes those that a later try may not have (retryable) and those that somebody has to mend. No message has a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpcserve.auth import tokens
from hpcserve.auth.globus import sdk
from hpcserve.auth.tokens import Kept
from hpcserve.config.way_out import settle
from hpcserve.core.demands import Demand
from hpcserve.errors import AuthenticationError, HpcserveError, ServiceUnavailable

APP = "hpcserve"
TIMEOUT_S = 10.0
RETRIES = 2
LONGEST_PAUSE_S = 2.0
REFUSED = frozenset({400, 401, 403})
SKEW_S = 86_400.0
"""So far this machine's clock may be off: the identity that the SDK checks by it is used for nothing here."""
WHAT = "a login with Globus"

Code = Callable[[str], str]
"""The address that a person opens → the code that they paste."""


def log_in(demand: Demand, service: str, code: Code, *, renews: bool = True) -> Kept:
    """Has a person log in, and gives back what the service is to get.

    Args:
        demand: What the service asks for.
        service: Its public key (Z85).
        code: Shows somebody the address, and waits for the code.
        renews: Whether the login goes on by itself; else it ends with its token.

    Raises:
        AuthenticationError: Globus does not take the code, or the login has not brought what was asked for.
        ServiceUnavailable: Globus does not answer.
        ConfigError: The Globus SDK is not installed.
        HpcserveError: Whatever ``code`` raises.
    """
    globus_sdk = sdk(WHAT)
    import jwt
    from globus_sdk import gare
    from globus_sdk.login_flows import CommandLineLoginFlowManager
    from globus_sdk.token_storage import MemoryTokenStorage

    class Flow(CommandLineLoginFlowManager):
        """The SDK's flow, which prints on standard output and waits where nobody can end it, with our own prompt."""

        def print_authorize_url(self, authorize_url: str) -> None:
            self._address = authorize_url

        def prompt_for_code(self) -> str:
            return code(self._address)

    client = _client(globus_sdk.NativeAppAuthClient, demand.client_id)
    storage = MemoryTokenStorage()
    settings = globus_sdk.GlobusAppConfig(
        login_flow_manager=Flow,
        token_storage=storage,
        request_refresh_tokens=renews,
        token_validation_error_handler=None,
        id_token_decoder=globus_sdk.IDTokenDecoder(client, jwt_leeway=SKEW_S),
    )
    wanted = demand.authorization_parameters
    parameters = gare.GlobusAuthorizationParameters(
        session_message=wanted.session_message,
        session_required_identities=wanted.session_required_identities,
        session_required_policies=wanted.session_required_policies,
        session_required_single_domain=wanted.session_required_single_domain,
        session_required_mfa=wanted.session_required_mfa,
        required_scopes=wanted.required_scopes,
        prompt=wanted.prompt,
    )
    needed = {demand.resource_server: demand.scope}
    try:
        with globus_sdk.UserApp(APP, login_client=client, scope_requirements=needed, config=settings) as app:
            app.login(auth_params=parameters, force=True)
            return _kept(demand, service, demand.client_id, storage.get_token_data_by_resource_server())
    except globus_sdk.AuthAPIError as error:
        if error.http_status in REFUSED:
            raise AuthenticationError(
                "Globus does not take the code: each is good once, for a few minutes, and for the address above it "
                "alone; log in again, and paste all of it: hpcserve login"
            ) from error
        raise _no_answer(globus_sdk, error) from error
    except (globus_sdk.GlobusError, jwt.PyJWTError) as error:
        raise _not_brought(globus_sdk, error) from error


def by_secret(demand: Demand, service: str, client_id: str, secret: str) -> Kept:
    """A program logs in; it consents to what it asks for.

    Raises:
        HpcserveError: As :func:`log_in`.
    """
    globus_sdk = sdk(WHAT)
    from globus_sdk import gare
    from globus_sdk.token_storage import MemoryTokenStorage

    storage = MemoryTokenStorage()
    settings = globus_sdk.GlobusAppConfig(token_storage=storage, token_validation_error_handler=None)
    needed = {demand.resource_server: demand.scope}
    try:
        client = _client(globus_sdk.ConfidentialAppAuthClient, client_id, secret)
        with globus_sdk.ClientApp(APP, login_client=client, scope_requirements=needed, config=settings) as app:
            further = demand.authorization_parameters.required_scopes
            app.login(auth_params=gare.GlobusAuthorizationParameters(required_scopes=further), force=True)
            kept = _kept(demand, service, client_id, storage.get_token_data_by_resource_server(), by_secret=True)
    except globus_sdk.AuthAPIError as error:
        if error.http_status in REFUSED:
            raise AuthenticationError(
                f"Globus does not let the client {client_id} in (HTTP {error.http_status}); see HPCSERVE_CLIENT_ID "
                "and HPCSERVE_CLIENT_SECRET"
            ) from error
        raise _no_answer(globus_sdk, error) from error
    except globus_sdk.GlobusError as error:
        raise _not_brought(globus_sdk, error) from error
    return kept


def refreshed(kept: Kept) -> Kept | None:
    """The login with a new token; None if Globus does not prolong it any more.

    Raises:
        ServiceUnavailable: Globus does not answer.
        ConfigError: The Globus SDK is not installed.
    """
    if kept.refresh_token is None:
        return None
    globus_sdk = sdk(WHAT)
    client = _client(globus_sdk.NativeAppAuthClient, kept.client_id)
    try:
        answer = client.oauth2_refresh_token(kept.refresh_token).by_resource_server[kept.resource_server]
        if kept.scope not in answer["scope"].split():
            return None
        return _with(kept, answer["access_token"], answer["expires_at_seconds"], answer.get("refresh_token"))
    except globus_sdk.AuthAPIError as error:
        if error.http_status in REFUSED:
            return None
        raise _no_answer(globus_sdk, error) from error
    except (globus_sdk.GlobusError, KeyError, TypeError) as error:
        raise _no_answer(globus_sdk, error) from error
    finally:
        client.close()


def revoke(kept: Kept) -> None:
    """Makes all tokens of a login worthless. Those of programs end by themselves: only their secret could revoke them.

    Raises:
        ServiceUnavailable: Globus does not answer; some of them may still be good.
        ConfigError: The Globus SDK is not installed.
    """
    _revoke(kept, kept.refresh_token, kept.access_token, *kept.others)


def revoke_access(kept: Kept) -> None:
    """Makes the token worthless that a service is told. What renews the login is left.

    With a refresh token Globus may end all others of the same user, client and scope, and so a login from before.

    Raises:
        HpcserveError: As :func:`revoke`.
    """
    _revoke(kept, kept.access_token)


def _revoke(kept: Kept, *values: str | None) -> None:
    if kept.by_secret:
        return
    globus_sdk = sdk(WHAT)
    client = _client(globus_sdk.NativeAppAuthClient, kept.client_id)
    try:
        for each in filter(None, values):
            client.oauth2_revoke_token(each)
    except globus_sdk.GlobusError as error:
        raise _no_answer(globus_sdk, error) from error
    finally:
        client.close()


def keep(kept: Kept) -> None:
    """Keeps a new login; if that fails, it is ended, since nobody could do so later.

    Where one from before is kept, which stays, only what does not end that with it is revoked.

    Raises:
        StorageFull: The disk is full.
        ConfigError: Its file cannot be written.
    """
    try:
        tokens.save(kept)
    except HpcserveError as error:
        end = revoke_access if tokens.path_of(kept.service).exists() else revoke
        try:
            end(kept)
        except HpcserveError as second:
            raise type(error)(f"{error.message}; and the login could not be ended: {second.message}") from error
        raise


def refuse_anothers(demand: Demand, service: str, program: str = "") -> None:
    """Looks whether a service asks for the login of another one; whoever has let it have that is not asked again.

    Args:
        demand: What it asks for.
        service: Its public key (Z85).
        program: See :func:`hpcserve.auth.tokens.load`.

    Raises:
        AuthenticationError: It does.
        ConfigError: A file of logins cannot be read.
    """
    own = tokens.load(service, program)
    if own is not None and own.resource_server == demand.resource_server:
        return
    for kept in tokens.every():
        if kept.resource_server == demand.resource_server and kept.service != service:
            raise AuthenticationError(
                f"this service, whose key is {service}, asks for the login that you have at the one whose key is "
                f"{kept.service}. With it, whoever runs the one could act as you at the other. If both are of one "
                "owner, or if it is the same with a new key: hpcserve login --same-owner"
            )


def _kept(demand: Demand, service: str, client_id: str, data: Any, *, by_secret: bool = False) -> Kept:
    of_service = data.get(demand.resource_server)
    if of_service is None:
        raise AuthenticationError(f"Globus has issued no token of {demand.scope}; ask the service's operator")
    rest = [each for name, each in data.items() if name != demand.resource_server]
    return Kept(
        service=service,
        client_id=client_id,
        scope=demand.scope,
        resource_server=demand.resource_server,
        access_token=of_service.access_token,
        expires_at=float(of_service.expires_at_seconds),
        refresh_token=of_service.refresh_token,
        by_secret=by_secret,
        others=tuple(token for each in rest for token in (each.refresh_token, each.access_token) if token),
    )


def _with(kept: Kept, access_token: str, expires_at: float, refresh_token: str | None) -> Kept:
    from msgspec.structs import replace

    return replace(
        kept,
        access_token=access_token,
        expires_at=float(expires_at),
        refresh_token=refresh_token or kept.refresh_token,
    )


def _not_brought(globus_sdk: Any, error: Exception) -> HpcserveError:
    """Of an error that is not Globus Auth's own refusal."""
    if isinstance(error, globus_sdk.NetworkError | globus_sdk.GlobusAPIError):
        return _no_answer(globus_sdk, error)
    return AuthenticationError(f"the login has not brought what the service asks for ({type(error).__name__})")


def _no_answer(globus_sdk: Any, error: Exception) -> ServiceUnavailable:
    if isinstance(error, globus_sdk.NetworkError) and "certificate verify failed" in str(error.underlying_exception):
        return ServiceUnavailable(
            "the certificate of what answers in Globus Auth's place is none that is trusted here; if a proxy of your "
            "site stands between, or a stand-in, name its certificates: REQUESTS_CA_BUNDLE, or GLOBUS_SDK_VERIFY_SSL"
        )
    what = f"HTTP {error.http_status}" if isinstance(error, globus_sdk.GlobusAPIError) else type(error).__name__
    return ServiceUnavailable(f"Globus Auth gives no answer ({what}); try again in a moment", retry_after_s=2.0)


def _client(kind: Callable[..., Any], *who: str) -> Any:
    from globus_sdk.transport import RequestsTransport, RetryConfig

    client = kind(
        *who,
        app_name=APP,
        transport=RequestsTransport(http_timeout=TIMEOUT_S),
        retry_config=RetryConfig(max_retries=RETRIES, max_sleep=LONGEST_PAUSE_S),
    )
    settle(client)
    return client
