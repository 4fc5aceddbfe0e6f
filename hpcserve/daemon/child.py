"""One process of the daemon, as its supervisor sees it: how it is started, what it reports, how it ends.

When it is started or ended is decided in :mod:`hpcserve.daemon.supervisor`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec

from hpcserve.cluster.processes import reap, signal_group, spawn
from hpcserve.core.restarts import Restarts
from hpcserve.daemon import farewell
from hpcserve.daemon.farewell import Farewell
from hpcserve.daemon.launch import ChildReport, ChildStart, decode_line, encode_line, in_json
from hpcserve.daemon.logs import open_log_or_none
from hpcserve.daemon.plans import Plan
from hpcserve.errors import ProtocolError
from hpcserve.types import Epoch

MOST_REPORT_BYTES = 65536


class Child:
    """A process and its two pipes: the lifeline to it, the report from it."""

    def __init__(self, plan: Plan, log: Path, restarts: Restarts) -> None:
        self.name = plan.name
        self.log = log
        self.restarts = restarts
        self.pid: int | None = None
        self.ready = False
        self.was_ready = False
        """Whether it has been ready in any of its runs."""
        self.told_to_end = False
        self.restart_at: float | None = None
        self.started_at = 0.0
        self.addresses: dict[str, str] = {}
        self.report_fd: int | None = None
        self._plan = plan
        self._lifeline: int | None = None
        self._said = b""

    def start(self, *, epoch: Epoch, runtime_dir: Path, record: Path, now: float) -> None:
        """Starts the process; :attr:`report_fd` is to be polled from now on.

        Raises:
            OSError: It cannot be started.
        """
        lifeline, self._lifeline = os.pipe()
        self.report_fd, report = os.pipe()
        try:
            log = open_log_or_none(self.log)
            try:
                self.pid = spawn(
                    self._plan.argv,
                    environment=os.environ,  # handed on, not read
                    stdin=lifeline,
                    stdout=log,
                    stderr=log,
                    keep=(report,),
                )
            finally:
                os.close(log)
            start = ChildStart(
                name=self.name,
                epoch=epoch,
                runtime_dir=str(runtime_dir),
                record=str(record),
                ports=self._ports(),
                report_fd=report,
                placed=self._plan.placed,
            )
            os.write(self._lifeline, encode_line(start))  # far less than a pipe holds: it does not block
        except OSError:
            self.close_report()
            self._cut_lifeline()
            raise
        finally:
            os.close(lifeline)
            os.close(report)
        os.set_blocking(self.report_fd, False)
        self.ready = self.told_to_end = False
        self._said, self.restart_at, self.started_at = b"", None, now
        self.restarts.started(now)

    def read_report(self) -> ChildReport | None:
        """What the child reported, once it is whole. When it is, or cannot be any more, the pipe is closed."""
        if self.report_fd is None:
            return None
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.report_fd, MOST_REPORT_BYTES):
                self._said += part
                if self._said.endswith(b"\n") or len(self._said) > MOST_REPORT_BYTES:
                    return self._reported()
            self.close_report()
        return None

    def close_report(self) -> None:
        """Listens no longer."""
        if self.report_fd is not None:
            os.close(self.report_fd)
            self.report_fd = None

    @property
    def unbidden(self) -> Farewell:
        """What becomes of the pilots when the controller ends and nobody has said."""
        return farewell.unbidden(placed=bool(self._plan.placed))

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, to all that the child started in its process group when it is SIGKILL."""
        if self.pid is None:
            return
        if number == signal.SIGKILL:
            signal_group(self.pid, number)
        else:
            os.kill(self.pid, number)

    def reap(self) -> int | None:
        """The exit code of a process that has ended, once. What it reported can still be read."""
        if self.pid is None:
            return None
        code = reap(self.pid)
        if code is not None:
            self.pid = None
            self._cut_lifeline()
        return code

    def _ports(self) -> dict[str, tuple[int, ...]]:
        """Those of the plan; before them, so that nobody need look for it, the last one."""
        found: dict[str, tuple[int, ...]] = {}
        for socket, ports in self._plan.ports.items():
            last = self.addresses.get(socket, "").rpartition(":")[2]
            before = (int(last),) if last else ()
            found[socket] = (*before, *(port for port in ports if port not in before))
        return found

    def _reported(self) -> ChildReport:
        self.close_report()
        try:
            report = decode_line(self._said, ChildReport)
        except msgspec.MsgspecError as error:
            told = ProtocolError(f"the daemon's {self.name} reported something unreadable: {error}")
            return ChildReport(error=in_json(told))
        if report.error is None:
            self.ready = self.was_ready = True
            self.addresses = report.addresses
        return report

    def _cut_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
