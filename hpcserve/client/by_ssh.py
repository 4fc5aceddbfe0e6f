"""The way to a service by ssh: one tunnel, made anew when it is lost, later and later if it is lost again.

A tunnel that stands is asked for the record at each attempt to connect, so a daemon that moves, or starts anew, costs
no second login: where a site asks for a one-time code there may be none.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from hpcserve.client.pauses import Pauses
from hpcserve.client.services import Service, pinned
from hpcserve.client.ssh_address import SshAddress, parse
from hpcserve.client.ssh_process import SshProcess
from hpcserve.client.tunnel import Tunnel
from hpcserve.client.ways import Door, Reached
from hpcserve.errors import AuthenticationError, Cancelled, ServiceUnavailable
from hpcserve.types import Epoch
from hpcserve.wire.record import ServiceRecord

GREETING_S = 90.0  # so long may login and the start of Python there take together: file systems are slow at times
ANSWER_S = 15.0
LONGEST_PAUSE_S = 15.0  # a login node counts how often somebody knocks


class BySsh:
    """See :class:`hpcserve.client.ways.Way`.

    Args:
        service: One with an address of ``ssh://``.

    Raises:
        ConfigError: The address is wrong.
    """

    def __init__(self, service: Service) -> None:
        assert service.address is not None, "the caller has looked"
        self._service = service
        self._address = parse(service.address)
        self._tunnel: Tunnel | None = None
        self._pauses = Pauses(LONGEST_PAUSE_S)
        self._reaching: Tunnel | None = None
        self._tried = False
        self._over = threading.Event()
        self._asking = threading.Lock()  # a tunnel answers one question at a time

    @contextlib.contextmanager
    def reach(self) -> Iterator[Reached]:
        """See :meth:`hpcserve.client.ways.Way.reach`."""
        self._reaching = tunnel = self._standing()
        try:
            if self._over.is_set():  # who interrupted just before did not see this tunnel
                raise Cancelled("the client was closed")
            yield from self._reached(tunnel)
        finally:
            self._reaching = None

    def read(self) -> ServiceRecord:
        """The record as it is now.

        Raises:
            HpcserveError: As :meth:`hpcserve.client.services.Service.read`.
        """
        return self._record(self._standing())

    def published(self) -> Epoch:
        """See :meth:`hpcserve.client.ways.Way.published`."""
        tunnel = self._tunnel
        if tunnel is None or tunnel.lost is not None:
            raise ServiceUnavailable(f"there is no connection to {self._address.text} now")
        return self._record(tunnel).epoch

    def _record(self, tunnel: Tunnel) -> ServiceRecord:
        with self._asking:
            return pinned(tunnel.record(), self._service.public_key, self._address.text)

    def _reached(self, tunnel: Tunnel) -> Iterator[Reached]:
        record = self._record(tunnel)
        with tunnel.ends() as ends:
            try:
                yield Reached(
                    record,
                    Door(ends.admission, record.admission[0], ANSWER_S),
                    Door(ends.front, record.front[0], ANSWER_S),
                )
            except (ServiceUnavailable, AuthenticationError) as error:
                trouble = tunnel.trouble()
                if not trouble:
                    raise
                raise ServiceUnavailable(trouble) from error

    def interrupt(self) -> None:
        """See :meth:`hpcserve.client.ways.Way.interrupt`."""
        self._over.set()
        tunnel = self._reaching
        if tunnel is not None:
            tunnel.abandon()

    def close(self) -> None:
        """See :meth:`hpcserve.client.ways.Way.close`."""
        self._over.set()
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()

    def _standing(self) -> Tunnel:
        """The tunnel, a new one if need be."""
        if self._tunnel is not None and self._tunnel.lost is None:
            return self._tunnel
        if self._tried and self._over.wait(self._pauses.after_failure_s()):
            raise Cancelled("the client was closed")
        self._tried, self._tunnel = True, None
        self._tunnel = _opened(self._address, self._over)
        return self._tunnel


@contextlib.contextmanager
def reading(service: Service) -> Iterator[Callable[[], ServiceRecord]]:
    """See :meth:`hpcserve.client.services.Service.reading`; for a service that is reached by ssh."""
    way = BySsh(service)
    try:
        yield way.read
    finally:
        way.close()


def _opened(address: SshAddress, over: threading.Event) -> Tunnel:
    ssh = SshProcess(address)
    try:
        greeting, rest = ssh.greet(GREETING_S, over)
        return Tunnel(address, ssh, greeting, rest)
    except BaseException:
        ssh.end()
        raise
