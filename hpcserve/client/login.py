"""The token that a client says HELLO with, where its service wants one: kept, renewed, or asked of a person.

A token goes to the service that it was had for, and to no other: see :mod:`hpcserve.auth.tokens`. All of this may take
seconds, or as long as a person does, so it belongs in the thread that dials.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Protocol

from hpcserve import config
from hpcserve.auth import tokens
from hpcserve.auth.tokens import SOON_S, Kept
from hpcserve.core.demands import Demand, demand_of
from hpcserve.errors import ConfigError, HpcserveError, LoginRequired, ServiceUnavailable

REST_S = 3.0
"""So long a service is not asked once more with a token that it has just refused, where nobody is asked to log in."""

_renewing = threading.Lock()
"""One renewal at a time in a process: whoever waited finds the new token."""
_refused: dict[str, tuple[str, LoginRequired, float]] = {}
"""The token that each service has refused last, what it said, and until when it would say the same: of all clients of
the process, so that a program that tries again and again leaves its owner room to log in."""


class Asks(Protocol):
    """Somebody who can log in."""

    def code(self, address: str, why: str, scope: str) -> str:
        """Shows the address, and waits for the code that the person pastes.

        Args:
            address: What to open in a browser.
            why: What the service says.
            scope: All that the service is to be let do, by Globus's names; empty: nothing, this program alone submits.

        Raises:
            HpcserveError: There will be none.
        """

    def interrupt(self) -> None:
        """Ends a :meth:`code` that waits in another thread; none succeeds any more."""


class Login:
    """One client's login at its service.

    Args:
        asks: Who is asked where a person has to do something; None: LoginRequired is raised.
        token: What is said at first, in place of what is kept.

    Raises:
        ConfigError: Half of a program's credentials is set.
    """

    def __init__(self, asks: Asks | None = None, *, token: str = "") -> None:
        self.lock = threading.Lock()
        """Held by whoever says HELLO."""
        self._asks = asks
        self._given = token
        self._program = config.client_credentials()
        self._asked: Demand | None = None
        """What a person was asked to log in for since the last HELLO that was the first."""
        self._said = self._service = ""

    def token(self, service: str) -> str:
        """What to say HELLO with at once; empty if nothing is known for this service.

        Raises:
            ConfigError: The file of the login cannot be used.
        """
        self._asked = None
        if self._given:
            return self._given
        kept = self._load(service)
        if kept is None:
            return ""
        if kept.left_s < SOON_S and kept.renews:
            try:
                kept = self._renewed(kept) or kept
            except ServiceUnavailable:
                if kept.left_s <= 0:
                    raise
        return self._to_say(kept)

    def after(self, service: str, refused: LoginRequired, *, same_owner: bool = False) -> str:
        """Another token, after the last one was refused.

        Args:
            service: The public key (Z85) of the service.
            refused: What it said.
            same_owner: Whether it may have the login that another service has, too.

        Raises:
            LoginRequired: Somebody has to log in, and nobody is asked; the one that came, or what it lacks is told.
            AuthenticationError: The service asks for what it must not have, or Globus does not let us in.
            ServiceUnavailable: Globus does not answer.
            ConfigError: A file, a variable or the Globus SDK is missing or wrong.
        """
        demand = demand_of(refused)
        kept = self._load(service)
        if kept is not None and kept.access_token != self._said:
            return self._to_say(kept)  # somebody has logged in meanwhile
        if self._program is not None:
            if demand.needs_session:
                raise LoginRequired(
                    f"{refused.message}; a program that logs in by HPCSERVE_CLIENT_SECRET cannot do that",
                    detail=refused.detail,
                )
            return self._to_say(self._by_secret(demand, service, same_owner=same_owner))
        if kept is not None and kept.scope == demand.scope and not demand.needs_person:
            renewed = self._renewed(kept)
            if renewed is not None:
                return self._to_say(renewed)
        if self._asks is None:
            raise refused
        self._asked = demand.after(self._asked)
        return self._to_say(log_in(self._asked, service, self._asks, same_owner=same_owner))

    def spare(self, service: str, token: str) -> None:
        """Whoever tries again and again is told the same again, and the service is not asked.

        Raises:
            LoginRequired: It has refused this very token within the last seconds, and nobody has logged in since then.
        """
        said, refused, until = _refused.get(service, ("", None, 0.0))
        if refused is not None and self._asks is None and said == token and time.monotonic() < until:
            raise LoginRequired(refused.message, detail=refused.detail)

    def was_refused(self, service: str, token: str, refused: LoginRequired) -> None:
        """The service has refused this token, and no better one is to be had."""
        _refused[service] = token, refused, time.monotonic() + REST_S

    def pass_over(self, service: str) -> None:
        """What is kept is not said again: somebody wants to log in anew."""
        kept = self._load(service)
        if kept is not None:
            self._said = kept.access_token

    def newer(self, service: str) -> str | None:
        """A token that lasts longer than the one that was said; None if there is none, now."""
        kept = self._load(service)
        if kept is None:
            return None
        if kept.access_token == self._said or kept.left_s < SOON_S:
            renewed = self._renewed(kept)
            if renewed is None or renewed.access_token == self._said:
                return None
            kept = renewed
        return self._to_say(kept)

    @property
    def kept(self) -> Kept | None:
        """The login that a token was last taken from, as it is now; None: there is none.

        Raises:
            ConfigError: Its file cannot be used.
        """
        return self._load(self._service) if self._said else None

    def interrupt(self) -> None:
        """Ends what waits for a person."""
        if self._asks is not None:
            self._asks.interrupt()

    def _load(self, service: str) -> Kept | None:
        return tokens.load(service, "" if self._program is None else self._program[0])

    def _to_say(self, kept: Kept) -> str:
        self._said, self._service = kept.access_token, kept.service
        return kept.access_token

    def _renewed(self, before: Kept) -> Kept | None:
        """The login with a newer token, by whomever."""
        from hpcserve.auth import signin

        with _renewing:
            kept = self._load(before.service)
            if kept is None or kept.access_token != before.access_token:
                return kept
            if self._program is not None:
                demand = Demand(kept.client_id, kept.scope, kept.resource_server)
                renewed: Kept | None = signin.by_secret(demand, kept.service, *self._program)
            else:
                renewed = signin.refreshed(kept)
            if renewed is None:
                return None
            return renewed if tokens.save_renewed(renewed, kept) else self._load(before.service)

    def _by_secret(self, demand: Demand, service: str, *, same_owner: bool) -> Kept:
        from hpcserve.auth import signin

        assert self._program is not None
        with _renewing:
            kept = self._load(service)
            if kept is not None and kept.access_token != self._said:
                return kept
            if not same_owner:
                signin.refuse_anothers(demand, service, self._program[0])
            made = signin.by_secret(demand, service, *self._program)
            tokens.save(made)
            return made


def log_in(demand: Demand, service: str, asks: Asks, *, renews: bool = True, same_owner: bool = False) -> Kept:
    """Has a person log in, and keeps it.

    Args:
        demand: What the service asks for.
        service: Its public key (Z85).
        asks: The person.
        renews: Whether the login goes on by itself.
        same_owner: Whether it may be a login that another service has, too.

    Raises:
        HpcserveError: As :meth:`Login.after`.
        StorageFull: The disk is full.
    """
    from hpcserve.auth import signin

    if not same_owner:
        signin.refuse_anothers(demand, service)
    why = demand.authorization_parameters.session_message or "this service wants a login with Globus"
    kept = signin.log_in(demand, service, lambda address: asks.code(address, why, demand.rights), renews=renews)
    signin.keep(kept)
    return kept


def take_back(made: Kept, before: Kept) -> None:
    """A login that the service does not want: what was kept before it is there again, and its token is revoked.

    What would renew it is forgotten, not revoked: that could end the one from before, too.

    Raises:
        StorageFull: The disk is full.
        ConfigError: The file cannot be written.
    """
    from hpcserve.auth import signin

    tokens.save(before)
    with contextlib.suppress(ServiceUnavailable):  # it ends by itself, and nobody has it any more
        signin.revoke_access(made)


Ended = list[tuple[str, HpcserveError | None]]
"""Services by their keys, and why their logins may still be good elsewhere, if Globus has not confirmed their end."""


def log_out_of(service: str) -> Ended:
    """Ends the login at a service (Z85): the user's own, or that of the program that logs in here.

    It is forgotten in any case, also if its file is broken.

    Raises:
        ConfigError: The file cannot be removed.
    """
    program = config.client_credentials()
    path = tokens.path_of(service, program[0] if program else "")
    kept = _read_if_whole(path)
    return [] if kept is None else [_ended(path, kept)]


def log_out_everywhere() -> Ended:
    """Ends all logins, and forgets them in any case, also those whose files are broken.

    Raises:
        ConfigError: A file cannot be removed.
    """
    return [_ended(path, _read_if_whole(path)) for path in tokens.paths()]


def _read_if_whole(path: Path) -> Kept | ConfigError | None:
    try:
        return tokens.read(path, exposed=True)
    except ConfigError as error:
        return error


def _ended(path: Path, kept: Kept | ConfigError | None) -> tuple[str, HpcserveError | None]:
    from hpcserve.auth import signin

    tokens.remove(path)
    if not isinstance(kept, Kept):
        return path.name, kept
    try:
        signin.revoke(kept)
    except HpcserveError as error:
        return kept.service, error
    return kept.service, None
