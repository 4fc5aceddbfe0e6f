"""Tokens for Globus Transfer that a service gets for its user: dependent on the token that the user came with.

Blocks. A refresh token is asked for only where the user agreed to that; whoever holds one revokes it when it is not
needed any more. Tokens are neither stored nor logged here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from hpcserve.auth.globus import LONGEST_PAUSE_S, RETRIES, TIMEOUT_S, sdk
from hpcserve.config.way_out import settle
from hpcserve.core.claims import Rules, login_required
from hpcserve.core.demands import TRANSFER, TRANSFER_SCOPE
from hpcserve.errors import AuthenticationError, HpcserveError, LoginRequired, ServiceUnavailable

NOT_YET = "this service may not transfer files for you yet"
CONSENTS = "hpcserve transfers --login"


class Grant(NamedTuple):
    """An access token for Transfer, and for how long it is good; with consent a refresh token."""

    access_token: str
    expires_in_s: float
    refresh_token: str = ""


class Grants:
    """The service's client at Globus Auth. May be used by several threads: each has connections of its own.

    Args:
        rules: The client's id, and what a login is asked for with.
        secret: The client's secret.
        mapped: The mapped collections of the site, where Transfer must be let act for a user.

    Raises:
        ConfigError: The Globus SDK is not installed.
    """

    def __init__(self, rules: Rules, secret: str, mapped: Sequence[str] = ()) -> None:
        optional = " ".join(f"*https://auth.globus.org/scopes/{each}/data_access" for each in mapped)
        self._transfer = f"{TRANSFER_SCOPE}[{optional}]" if optional else TRANSFER_SCOPE
        self._rules = rules
        self._sdk = sdk()
        self._secret = secret
        self._of_thread = threading.local()

    @property
    def _client(self) -> Any:
        if not hasattr(self._of_thread, "client"):
            client = self._sdk.ConfidentialAppAuthClient(
                self._rules.client_id,
                self._secret,
                transport=self._sdk.transport.RequestsTransport(http_timeout=TIMEOUT_S),
                retry_config=self._sdk.transport.RetryConfig(max_retries=RETRIES, max_sleep=LONGEST_PAUSE_S),
            )
            settle(client)
            self._of_thread.client = client
        return self._of_thread.client

    def dependent(self, token: str, *, offline: bool) -> Grant:
        """For Transfer, on behalf of whose token this is. ``offline``: with a refresh token.

        Raises:
            LoginRequired: Its owner has not consented to transfers.
            AuthenticationError: The token is not good any more.
            ServiceUnavailable: Globus Auth gives no answer.
        """
        try:
            answer = self._client.oauth2_get_dependent_tokens(token, refresh_tokens=offline, scope=TRANSFER_SCOPE)
        except self._sdk.GlobusError as error:
            if isinstance(error, self._sdk.AuthAPIError) and error.http_status in (400, 401):
                raise AuthenticationError("Globus Auth does not take the token any more") from error
            raise self._refused(error, NOT_YET) from error
        return _grant(answer)

    def consent_required(self) -> LoginRequired:
        """What asks for a login by which this service may transfer."""
        return self.login_required(NOT_YET, [self._transfer])

    def https(self, token: str, collection: str, *, data_access: bool) -> Grant:
        """For the files of a collection by HTTPS, on behalf of whose token this is.

        Raises:
            LoginRequired: Its owner has not consented to that.
            AuthenticationError: The token is not good any more.
            ServiceUnavailable: Globus Auth gives no answer.
        """
        scope = _https_scope(collection)
        try:
            answer = self._client.oauth2_get_dependent_tokens(token, scope=scope)
        except self._sdk.GlobusError as error:
            if isinstance(error, self._sdk.AuthAPIError) and error.http_status in (400, 401):
                raise AuthenticationError("Globus Auth does not take the token any more") from error
            if isinstance(error, self._sdk.AuthAPIError) and error.http_status == 403:
                raise self.https_consent_required(collection, data_access=data_access) from error
            raise self._no_answer(error) from error
        return _grant(answer, collection)

    def https_consent_required(self, collection: str, *, data_access: bool) -> LoginRequired:
        """What asks for a login by which this service may fetch files of a collection."""
        scope = _https_scope(collection)
        of_files = f"[*https://auth.globus.org/scopes/{collection}/data_access]" if data_access else ""
        return self.login_required("this service may not fetch files for you yet", [f"{scope}{of_files}"])

    def refreshed(self, refresh_token: str) -> Grant:
        """A new access token.

        Raises:
            LoginRequired: The refresh token is not good any more.
            ServiceUnavailable: Globus Auth gives no answer.
        """
        try:
            answer = self._client.oauth2_refresh_token(refresh_token)
        except self._sdk.GlobusError as error:
            raise self._refused(error, "what was kept of your login is not good any more") from error
        return _grant(answer)

    def own(self) -> Grant:
        """For the service itself, by its secret.

        Raises:
            ServiceUnavailable: Globus Auth gives no answer, or does not know the secret.
        """
        try:
            answer = self._client.oauth2_client_credentials_tokens(requested_scopes=TRANSFER_SCOPE)
        except self._sdk.GlobusError as error:
            raise self._no_answer(error) from error
        return _grant(answer)

    def revoke(self, token: str) -> None:
        """Makes a token worthless.

        Raises:
            ServiceUnavailable: Globus Auth gives no answer; the token is as good as before.
        """
        try:
            self._client.oauth2_revoke_token(token)
        except self._sdk.GlobusError as error:
            raise self._no_answer(error) from error

    def login_required(self, why: str, scopes: list[str], **wanted: object) -> LoginRequired:
        """What asks for a login by which this service may do what needs these scopes.

        Args:
            why: What is wrong with the present one.
            scopes: Those of others that the service's has to lead to.
            wanted: Further authorization parameters, by Globus's names for them.
        """
        # A login alone, however new, asks for no such consent.
        mend = CONSENTS if scopes else "hpcserve login"
        scopes = [f"{self._rules.scope}[{each}]" for each in scopes]
        return login_required(self._rules, why, scopes=scopes, mend=mend, **wanted)

    def _refused(self, error: Exception, why: str, needed: str = "") -> HpcserveError:
        """An invalid token and a missing consent want a login; anything else may be over soon."""
        if isinstance(error, self._sdk.AuthAPIError) and error.http_status in (400, 401, 403):
            return self.login_required(why, [needed or self._transfer])
        return self._no_answer(error)

    def _no_answer(self, error: Exception) -> ServiceUnavailable:
        what = type(error).__name__
        if isinstance(error, self._sdk.GlobusAPIError):
            what = f"HTTP {error.http_status}"
        return ServiceUnavailable(f"Globus Auth gives no token for Transfer ({what})", retry_after_s=2.0)


def _https_scope(collection: str) -> str:
    return f"https://auth.globus.org/scopes/{collection}/https"


def _grant(answer: Any, server: str = TRANSFER) -> Grant:
    try:
        told = answer.by_resource_server[server]
        lasts_s = float(answer.data[0]["expires_in"] if isinstance(answer.data, list) else answer.data["expires_in"])
        return Grant(told["access_token"], lasts_s, told.get("refresh_token") or "")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ServiceUnavailable(
            f"Globus Auth gives no token for {server}: the service's scope does not depend on its; the operator "
            "should see to that"
        ) from error
