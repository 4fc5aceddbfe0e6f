"""What Globus Auth and Globus Groups say of a token, by the Globus SDK. Blocks; one object for each thread.

Decides nothing about what they say: that is :mod:`hpcserve.core.claims`'s. Of the SDK's many errors it makes two kinds:
those that a later call may not have (retryable), and a LoginRequired where the user has to consent to something.
Tokens are neither stored nor logged here.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from hpcserve.auth.private import read_private
from hpcserve.config.way_out import settle
from hpcserve.core.claims import Rules, judge, login_required, memberships
from hpcserve.core.tokens import Checked, Question
from hpcserve.errors import ConfigError, HpcserveError, LoginRequired, ServiceUnavailable

_log = logging.getLogger(__name__)

TIMEOUT_S = 4.0
RETRIES = 2
LONGEST_PAUSE_S = 1.0
"""Between two tries, whatever the service asks for: somebody waits."""
AUTH = "Globus Auth"
GROUPS = "groups.api.globus.org"
GROUPS_SCOPE = f"urn:globus:auth:scope:{GROUPS}:view_my_groups_and_memberships"


def sdk(what: str = "auth = 'globus'") -> ModuleType:
    """The Globus SDK, which ``what`` needs.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import globus_sdk
    except ImportError as error:
        raise ConfigError(f"{what} needs the Globus SDK: pip install 'hpcserve[globus]' ({error})") from error
    return globus_sdk


def check_verifies() -> None:
    """Whether the SDK would know Globus by its certificate: whoever can answer in Globus's place lets in anybody.

    Raises:
        ConfigError: The environment tells it not to look.
    """
    sdk()
    from globus_sdk.transport import RequestsTransport

    try:
        verifies = RequestsTransport().verify_ssl
    except ValueError as error:
        raise ConfigError(f"GLOBUS_SDK_VERIFY_SSL: {error}; unset it") from error
    if verifies is False:
        raise ConfigError(
            "GLOBUS_SDK_VERIFY_SSL turns off the check of Globus's certificate, so that anybody on the way could let "
            "in whom he likes; unset it, or set it to the path of the certificates that are to be trusted"
        )


def read_secret(path: Path) -> str:
    """The secret of the service's client at Globus.

    Raises:
        ConfigError: The file is not there or is empty, or others may read it.
    """
    try:
        secret = read_private(path, secret=True).decode("utf-8", "replace").strip()
    except FileNotFoundError as error:
        raise ConfigError(
            f"globus.client_secret_file: there is no {path}; write the secret of the service's client at Globus "
            f"into it, and then: chmod 600 '{path}'"
        ) from error
    if not secret or not secret.isprintable() or " " in secret:
        raise ConfigError(f"globus.client_secret_file: {path} should hold the client's secret and nothing else")
    return secret


class Globus:
    """The service's client at Globus.

    Args:
        rules: What the site demands; the client's id is in it.
        secret: The client's secret.

    Raises:
        ConfigError: The Globus SDK is not installed, or does not check Globus's certificate.
    """

    def __init__(self, rules: Rules, secret: str) -> None:
        check_verifies()
        self._rules = rules
        self._sdk = sdk()
        self._auth = self._sdk.ConfidentialAppAuthClient(rules.client_id, secret, **self._how())
        self._groups = self._sdk.GroupsClient(**self._how())
        for client in (self._auth, self._groups):
            settle(client)

    def try_secret(self) -> None:
        """Whether Globus Auth knows the service's client by its secret: asks about a token that is none.

        Raises:
            ConfigError: It does not.
            ServiceUnavailable: Globus does not answer.
        """
        try:
            self._auth.oauth2_token_introspect("none")
        except self._sdk.GlobusError as error:
            if self._is_refused(error):
                raise ConfigError(
                    f"Globus Auth refuses the service's client {self._rules.client_id} (HTTP {error.http_status}), and "
                    "so everybody: correct globus.client_id, or write a new secret of this client into its file"
                ) from error
            raise self._no_answer(AUTH, error) from error

    def check(self, question: Question, token: str) -> Checked:
        """Asks what is to be asked; errors are in the answer.

        Groups are asked for only of a token that is good, and if that fails the rest counts.
        """
        person, expires_in_s = None, 0.0
        try:
            if question.token:
                now = time.time()
                person = judge(self.introspection(token), self._rules, now)
                expires_in_s = person.expires_at - now
            groups = self._groups_if_told(token) if question.groups else None
        except HpcserveError as error:
            return Checked(error=error)
        return Checked(person, expires_in_s, groups)

    def introspection(self, token: str) -> object:
        """What Globus Auth says of a token, as it came.

        Raises:
            ServiceUnavailable: It does not answer, or not to this client.
        """
        asked = {"token": token, "include": "session_info,identity_set_detail"}
        if self._rules.policies:
            asked["authentication_policies"] = ",".join(self._rules.policies)
        try:
            answer = self._auth.post("/v2/oauth2/token/introspect", data=asked, encoding="form")
        except self._sdk.GlobusError as error:
            raise self._no_answer(AUTH, error) from error
        told: object = answer.data
        return told

    def groups(self, token: str) -> tuple[str, ...]:
        """The ids of the groups that the token's owner is an active member of.

        Raises:
            LoginRequired: Its owner has not consented to that.
            AuthenticationError: The answer is no list of groups.
            ServiceUnavailable: Globus does not answer, or the service's scope does not depend on that of Groups.
        """
        try:
            tokens = self._auth.oauth2_get_dependent_tokens(token, scope=GROUPS_SCOPE).by_resource_server
            if GROUPS not in tokens:
                raise ServiceUnavailable(
                    f"the service's scope does not depend on {GROUPS_SCOPE}; its operator should see to that"
                )
            self._groups.authorizer = self._sdk.AccessTokenAuthorizer(tokens[GROUPS]["access_token"])
            return memberships(self._groups.get_my_groups().data)
        except self._sdk.GlobusError as error:
            raise self._consent_or_no_answer(error) from error
        except (KeyError, TypeError) as error:
            raise self._no_answer(AUTH, error) from error

    def _groups_if_told(self, token: str) -> tuple[str, ...] | None:
        try:
            return self.groups(token)
        except LoginRequired:
            raise
        except HpcserveError as error:
            _log.warning("somebody's groups are not known: %s", error)
            return None

    def _consent_or_no_answer(self, error: Exception) -> HpcserveError:
        from globus_sdk import gare

        if isinstance(error, self._sdk.GlobusAPIError) and gare.to_gare(error) is not None:
            why = "this service wants to see your groups, and you have not consented to that"
            return login_required(self._rules, why, scopes=[f"{self._rules.scope}[{GROUPS_SCOPE}]"])
        return self._no_answer("Globus Groups", error)

    def _no_answer(self, who: str, error: Exception) -> ServiceUnavailable:
        """Nothing of the error's own text goes out: it may repeat what was sent."""
        what = type(error).__name__
        if isinstance(error, self._sdk.GlobusAPIError):
            what = f"HTTP {error.http_status}"
        if self._is_refused(error):
            _log.error("%s refuses the service's own client (%s): see globus.client_id and its secret", who, what)
        if self._is_refused(error) and who == AUTH:
            return ServiceUnavailable(
                f"{who} does not know this service any more ({what}), so nobody can log in; that is its operator's to "
                "mend: hpcserve site check says what"
            )
        return ServiceUnavailable(
            f"{who} gives no answer about your login ({what}); try again in a moment", retry_after_s=2.0
        )

    def _is_refused(self, error: Exception) -> bool:
        return isinstance(error, self._sdk.GlobusAPIError) and error.http_status in (401, 403)

    def _how(self) -> dict[str, Any]:
        make = self._sdk.transport
        return {
            "transport": make.RequestsTransport(http_timeout=TIMEOUT_S),
            "retry_config": make.RetryConfig(max_retries=RETRIES, max_sleep=LONGEST_PAUSE_S),
        }
