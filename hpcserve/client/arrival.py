"""One HELLO after the other, without a session: what ``hpcserve login`` and ``logout`` need of a service."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import zmq

from hpcserve import config
from hpcserve.auth import tokens
from hpcserve.auth.tokens import Kept
from hpcserve.client.dial import MOST_LOGINS, say_hello
from hpcserve.client.keys import client_keys
from hpcserve.client.login import Asks, Login, log_in, take_back
from hpcserve.client.pauses import Patience
from hpcserve.client.services import Service, find_service, load_services
from hpcserve.client.ways import way_to
from hpcserve.core.demands import demand_of
from hpcserve.errors import (
    AuthenticationError,
    Conflict,
    LoginRequired,
    Overloaded,
    PermissionDenied,
    ServiceUnavailable,
)
from hpcserve.wire.messages import Welcome

PATIENCE_S, PAUSE_S = 5.0, 0.5


class Arrival:
    """At the door of a service, with or without a login. Use it in a ``with`` statement.

    Args:
        name: See :class:`hpcserve.Client`.

    Raises:
        HpcserveError: As :class:`hpcserve.Client`.
    """

    def __init__(self, name: str | Service | None) -> None:
        self.service: Service = find_service(name)
        named = "" if isinstance(name, Service) else config.service_named(name) or load_services().default
        self.place = named or self.service.place
        self._way = way_to(self.service)
        self._keys = client_keys()
        self._login = Login()
        program = config.client_credentials()
        self._program = program[0] if program else ""
        self._key = ""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._way.interrupt()
        self._context.destroy(linger=0)
        self._way.close()

    @property
    def is_program(self) -> bool:
        """Whether it is a program that logs in, by its secret."""
        return bool(self._program)

    def kept(self) -> Kept | None:
        """The login at this service, after the first HELLO."""
        return tokens.load(self._key, self._program) if self._key else None

    def try_kept(self) -> Welcome | LoginRequired | None:
        """What the service says to the login that there is; None: there is none.

        Raises:
            HpcserveError: As :class:`hpcserve.Client`; LoginRequired is returned.
        """
        with self._way.reach() as reached:
            self._key = reached.record.public_key
            token = self._login.token(self._key)
        return self._hello(token) if token else None

    def demanded(self) -> Welcome | LoginRequired:
        """What the service says to somebody without a login. A login that there is does not count from now on.

        Raises:
            HpcserveError: As :meth:`try_kept`.
        """
        told = self._hello("")
        self._login.pass_over(self._key)
        return told

    def log_in(self, refused: LoginRequired, asks: Asks | None, *, renews: bool, same_owner: bool) -> Welcome:
        """Logs in, again if the service then wants more.

        Raises:
            HpcserveError: As :meth:`hpcserve.client.login.Login.after`.
        """
        demand = None
        for _ in range(MOST_LOGINS):
            demand = demand_of(refused).after(demand)
            if asks is None or self.is_program:
                answer = self._hello(self._login.after(self._key, refused, same_owner=same_owner))
            else:
                before = self.kept()
                made = log_in(demand, self._key, asks, renews=renews, same_owner=same_owner)
                try:
                    answer = self._hello(made.access_token)
                except (AuthenticationError, Conflict, PermissionDenied):  # it does not do; one that did may be there
                    if before is not None:
                        take_back(made, before)
                    raise
            if isinstance(answer, Welcome):
                return answer
            refused = answer
        raise refused

    def _hello(self, token: str) -> Welcome | LoginRequired:
        """Asks again for a while where Globus does not answer the service: whoever has logged in is not sent away.

        Nor is somebody whose key has asked too often, who may be a program that does so in another terminal.
        """
        until, patience = time.monotonic() + PATIENCE_S, Patience()
        while True:
            try:
                return self._hello_once(token)
            except ServiceUnavailable:
                if not token or time.monotonic() > until:
                    raise
                pause_s = PAUSE_S
            except Overloaded as error:
                pause_s = patience.pause_s(error)
            time.sleep(pause_s)

    def _hello_once(self, token: str) -> Welcome | LoginRequired:
        with self._way.reach() as reached:
            if token and reached.record.public_key != self._key:
                raise AuthenticationError(f"the service at {self.place} has another key than a moment ago; try again")
            self._key = reached.record.public_key
            try:
                return say_hello(self._context, reached, self._keys, token=token)
            except LoginRequired as error:
                return error
