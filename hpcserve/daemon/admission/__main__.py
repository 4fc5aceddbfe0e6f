"""``python -m hpcserve.daemon.admission``: started by the supervisor. One thread around one poll."""

from __future__ import annotations

import logging
import math
import sys
import time
from pathlib import Path

import zmq

import hpcserve
from hpcserve.auth.authorized import AuthorizedKeys
from hpcserve.auth.keys import load
from hpcserve.cluster.signals import Signals
from hpcserve.config import Site
from hpcserve.daemon.admission.desk import Desk, Limits
from hpcserve.daemon.admission.door import Context, Door
from hpcserve.daemon.admission.globus import checks_of, logins_of
from hpcserve.daemon.admission.limits import bound_memory, raise_descriptors
from hpcserve.daemon.admission.line import Line
from hpcserve.daemon.admission.memory import Memory
from hpcserve.daemon.audit import AuditLog, audit_path
from hpcserve.daemon.launch import (
    AUTHORIZED_KEYS,
    SERVICE_KEY,
    ChildStart,
    hub_address,
    receive_start,
    report_error,
    report_ready,
)
from hpcserve.daemon.lifeline import Lifeline
from hpcserve.errors import HpcserveError

DRAIN = 64
"""Messages taken from the door before the broker is listened to again."""
LOOK_S = 1.0
"""How often the list of authorised keys is looked at."""
NOTE_S = 15.0
"""How often it is written down how long those who are in for a time stay in."""


class Admission:
    """The sockets around the desk."""

    def __init__(self, context: Context, site: Site, start: ChildStart) -> None:
        self._authorized = AuthorizedKeys(site.state_dir / AUTHORIZED_KEYS)
        self._memory = Memory(Path(start.runtime_dir) / "admitted")
        self._audit = AuditLog(audit_path(site.state_dir, "admission"))
        self._checks = checks_of(site) if site.auth == "globus" else None
        now = time.monotonic()
        # Whoever set the clock back meanwhile, nobody stays in for longer than an answer counts.
        longest = now + site.globus.cache_s
        to_monotonic = now - time.time()
        self._desk = Desk(
            self._authorized.lookup,
            admitted={key: min(until + to_monotonic, longest) for key, until in self._memory.keys.items()},
            software=f"hpcserve {hpcserve.__version__}",
            now=now,
            limits=Limits(strangers=(site.globus.hello_rate, site.globus.hello_burst)) if self._checks else Limits(),
            logins=logins_of(site) if self._checks else None,
        )
        self._note_at = now
        self._door = Door(context, load(site.state_dir / SERVICE_KEY))
        self._look_at = time.monotonic() + LOOK_S
        self.address = self._door.bind(site.network.host, start.ports["admission"])
        self._line = Line(context, hub_address(start.runtime_dir))

    def run(self, signals: Signals, lifeline: Lifeline) -> None:
        """Serves until it is told to end, or the parent is gone."""
        poller = zmq.Poller()
        sockets = (self._door.zap.socket, self._door.socket, self._line.socket, self._line.monitor)
        checks = () if self._checks is None else (self._checks.fileno(),)
        for source in (*sockets, signals.fileno(), lifeline.fileno(), *checks):
            poller.register(source, zmq.POLLIN)
        while not signals.stop:
            for source, _ in poller.poll(self._timeout_ms()):
                if source == lifeline.fileno() and lifeline.gone():
                    return
                if source == signals.fileno():
                    signals.drain()
            self._turn(time.monotonic())

    def _turn(self, now: float) -> None:
        self._door.zap.handle()
        if self._line.lost():
            self._desk.broker_is_gone()
        while (news := self._line.receive()) is not None:
            self._desk.broker_says(news)
        for _ in range(DRAIN):
            said = self._door.receive()
            if said is None:
                break
            if said.frames:
                self._desk.said(said.connection, said.key, said.frames, now, peer=said.peer)
        for question, checked in () if self._checks is None else self._checks.take():
            self._desk.heard(question, checked, now)
        self._desk.tick(now)
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._desk.look(now)
            if self._authorized.refresh():
                self._desk.revoke_strangers()
        self._note(now)
        self._send()

    def _note(self, now: float) -> None:
        """Writes down who is in: before the broker hears of it, so that nobody is in of whom we could not know."""
        added, removed = self._desk.take_changes()
        to_clock = time.time() - now
        if removed or (self._checks is not None and now >= self._note_at):
            self._note_at = now + NOTE_S
            self._memory.remember({key: self._desk.until(key) + to_clock for key in self._desk.admitted})
        elif added:
            self._memory.add({key: self._desk.until(key) + to_clock for key in added})

    def _send(self) -> None:
        if self._checks is not None:
            for question, token in self._desk.take_questions():
                self._checks.ask(question, token)
        for record in self._desk.take_records():
            self._audit.write(record)
        for message in self._desk.take_for_broker():
            if not self._line.send(message):
                self._desk.broker_is_gone()
                break  # the next broker is told everything anew
        for connection, reply in self._desk.take_replies():
            self._door.send(connection, reply)

    def _timeout_ms(self) -> int:
        left_s = min(self._look_at, self._desk.due) - time.monotonic()
        return max(0, math.ceil(left_s * 1000))


def main() -> int:
    """Runs admission; its exit code is 0 for an orderly end."""
    site, start = receive_start("admission")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    signals, lifeline = Signals(), Lifeline()
    raise_descriptors()
    context: Context = zmq.Context()
    try:
        admission = Admission(context, site, start)
    except HpcserveError as error:
        report_error(start, error)
        return 1
    bound_memory()
    report_ready(start, {"admission": admission.address})
    admission.run(signals, lifeline)
    context.destroy(linger=0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
