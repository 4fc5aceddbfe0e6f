"""Starting a daemon from here: the process, the pipe that it is tied to, and what it says when it is ready.

The daemon is a process of its own, in a session of its own: a Ctrl-C in the terminal reaches the starter alone,
which then closes the pipe, and the daemon goes down in order. The kernel closes it as well when the starter is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from types import FrameType

from hpcserve.cli.stopping import STOPPED_BY, say_stopping
from hpcserve.cli.terminal import note
from hpcserve.errors import HpcserveError
from hpcserve.wire.record import ServiceRecord


class DaemonProcess:
    """A daemon that this process has started.

    Args:
        site: The site's name or the path of its file; None: the default.
        tied: Whether it goes down with this process; otherwise, only until :meth:`keep`.
    """

    def __init__(self, site: str | None, *, tied: bool) -> None:
        self.is_elsewhere = False
        """Whether it has ended at once, since the site wants its daemon in a job."""
        theirs, self._ours = os.pipe()
        self._ready, report = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as this object)
        argv = [sys.executable, "-m", "hpcserve.daemon", "--ready-fd", str(report)]
        argv += [] if site is None else ["--site", site]
        argv += ["--tied"] if tied else ["--detach-fd", str(theirs)]
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=theirs if tied else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(report,) if tied else (report, theirs),
                start_new_session=True,
            )
        finally:
            os.close(theirs)
            os.close(report)

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._process.pid

    def wait_ready(self) -> ServiceRecord | None:
        """Waits until it can be called; None when it was stopped before that.

        Raises:
            HpcserveError: Why it cannot start.
        """
        # While the daemon starts: what it takes to read its report is imported at no cost.
        from hpcserve.daemon.launch import DaemonReport, decode_line

        with open(self._ready, "rb") as pipe:
            report = None
            while (line := pipe.readline()) and (report := decode_line(line, DaemonReport)).waits:
                note(report.waits)
        if line and report is not None:
            if report.error is not None:
                self.wait()
                raise report.error.as_exception()
            self.is_elsewhere = report.elsewhere
            if report.elsewhere:
                self.wait()
            return report.record
        code = self.wait()
        if code == 0:
            return None
        raise HpcserveError(f"the daemon ended with code {code} before it was ready: {self.last_words()}")

    def keep(self) -> None:
        """The daemon stays when this process ends."""
        from hpcserve.daemon.starter import KEEP

        os.write(self._ours, KEEP)
        self.stop()

    def stop(self) -> None:
        """Lets go of the pipe: without :meth:`keep`, the daemon goes down. May be called twice."""
        ours, self._ours = self._ours, -1
        if ours >= 0:
            os.close(ours)

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code.

        Raises:
            TimeoutError: It still runs after ``timeout_s``.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the daemon (pid {self.pid}) still runs after {timeout_s:g} s") from error

    def last_words(self) -> str:
        """The last line that it wrote to standard error."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


class StopRequests:
    """Turns the signals that end a process into a stopped daemon, from before the daemon is started.

    A signal never raises here: what waits for the daemon goes on to wait until it is down.
    """

    def __init__(self) -> None:
        self.number = 0
        """The first signal that came; 0: none."""
        self._daemon: DaemonProcess | None = None
        self._before = {number: signal.signal(number, self._note) for number in STOPPED_BY}

    def watch(self, daemon: DaemonProcess) -> None:
        """This is the daemon to stop; at once, if a signal has come already."""
        self._daemon = daemon
        if self.number:
            daemon.stop()

    def close(self) -> None:
        """Puts the handlers back."""
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # one that was not set from Python
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self.number:
            say_stopping()
        self.number = self.number or number
        if self._daemon is not None:
            self._daemon.stop()
