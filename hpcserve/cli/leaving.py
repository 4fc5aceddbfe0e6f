"""A daemon that is to go down, as far as it is seen from here: by its record, and on its own host by its process."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from hpcserve.cli.daemon_pids import is_daemon
from hpcserve.cli.terminal import note

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpcserve.client.services import Service
    from hpcserve.config import Site
    from hpcserve.wire.record import ServiceRecord

LOOK_S = 0.05
LOOK_BY_SSH_S = 1.0


class Leaving:
    """One daemon: that of the record which was read first.

    Args:
        service: How it is called.
        read: Reads its record anew.
        record: As it was then.
        site: Its site, where that is this user's own.
        state_dir: Of a site of this user's own whose file has a fault; nothing else is known of that.
    """

    def __init__(
        self,
        service: Service,
        read: Callable[[], ServiceRecord],
        record: ServiceRecord,
        site: Site | None = None,
        state_dir: Path | None = None,
    ) -> None:
        self.own = site
        """Its site, where that is this user's own, and its file is right."""
        self._state_dir = site.state_dir if site is not None and site.daemon.placement == "job" else state_dir
        self.service = service
        self.record = record
        self._read = read
        self.is_here = service.record is not None and record.host == socket.gethostname()
        """Whether its supervisor is a process of this host, as far as the record says."""

    @property
    def is_own(self) -> bool:
        """Whether it was asked as the daemon of this user's own site."""
        return self.own is not None or self._state_dir is not None

    def lives(self) -> bool:
        """Whether its supervisor, which is here, runs."""
        return is_daemon(self.record.pid)

    def terminate(self) -> bool:
        """Its supervisor, which is here, is told by a signal to end with its pilots; False: it does not live.

        Raises:
            HpcserveError: It runs in a job, or may, and would leave its pilots to the next one: that they are to be
                cancelled cannot be written down.
        """
        from hpcserve.daemon import farewell

        if not self.lives():
            return False
        if self._state_dir is not None:
            farewell.write(self._state_dir, "cancel")
        os.kill(self.record.pid, signal.SIGTERM)
        self.rouse()
        return True

    def rouse(self) -> None:
        """Its supervisor, which is here and is to go down, goes on if somebody has stopped it."""
        from hpcserve.cluster.processes import is_stopped

        pid = self.record.pid
        if self.is_here and self.lives() and is_stopped(pid):
            note(f"the daemon (pid {pid}) was stopped by somebody (SIGSTOP); it is told to go on")
            os.kill(pid, signal.SIGCONT)

    def stands(self) -> bool:
        """Whether the record is still this daemon's, which has not been killed as far as is seen from here.

        Raises:
            AuthenticationError: ssh is not let in any more, so nobody knows.
        """
        return not self._has_left() and (not self.is_here or self.lives())

    def leaves(self, until: float) -> bool:
        """Whether it takes its record back by then, as one does that goes down. One that was killed does not.

        Raises:
            AuthenticationError: As :meth:`stands`.
        """
        while True:
            may = not self.is_here or self.lives()
            if self._has_left():
                return True
            if not may or time.monotonic() >= until:
                return False
            time.sleep(LOOK_S if self.service.record is not None else LOOK_BY_SSH_S)

    def _has_left(self) -> bool:
        from hpcserve.client.ssh_words import Unreached
        from hpcserve.errors import AuthenticationError, ServiceUnavailable

        try:
            now = self._read()
        except Unreached:
            return False  # as far as anybody knows
        except ServiceUnavailable:
            return True
        except AuthenticationError:
            if self.service.record is None:
                raise
            return True
        return (now.host, now.pid) != (self.record.host, self.record.pid)
