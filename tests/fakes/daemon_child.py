"""A stand-in for one of the daemon's processes: behaves as the file NAME.does in the control directory says.

``daemon_child.py NAME CONTROL SITE``. What happens to it is appended to the control directory's files.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from hpcserve.cluster.signals import Signals
from hpcserve.daemon.launch import receive_start, report_error, report_ready
from hpcserve.daemon.lifeline import Lifeline
from hpcserve.daemon.ports import bind_error
from hpcserve.errors import Conflict


def bound(host: str, ports: tuple[int, ...]) -> socket.socket:
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            failure = error
            continue
        listener.listen()
        return listener
    raise failure


def note(file: Path, line: str) -> None:
    with file.open("a") as stream:
        stream.write(line + "\n")


def main() -> int:
    name, control = sys.argv[1], Path(sys.argv[2])
    site, start = receive_start(name, ["--site", sys.argv[3]])
    told = {"pid": os.getpid(), "sid": os.getsid(0), "epoch": start.epoch, "ports": start.ports}
    note(control / f"{name}.starts", json.dumps(told))
    script = control / f"{name}.does"
    does = script.read_text() if script.exists() else ""
    if does == "crash":
        print("lab.toml: not TOML\n", file=sys.stderr)
        return 7
    if does == "refuse":
        report_error(start, Conflict("this cannot be"))
        return 1
    signals, lifeline = Signals(), Lifeline()
    listeners = {}
    for key, ports in start.ports.items():
        try:
            listeners[key] = bound(site.network.host, ports)
        except OSError as error:
            report_error(start, bind_error(key, site.network.host, ports, error.errno or 0))
            return 1
    while does == "late" and not (control / f"{name}.go").exists():
        time.sleep(0.01)
    signal.signal(signal.SIGUSR1, lambda *_: note(control / "events", f"{name} SIGUSR1"))
    if does != "mute":
        report_ready(start, {key: "tcp://{}:{}".format(*each.getsockname()) for key, each in listeners.items()})
    while True:
        ready, _, _ = select.select([signals.fileno(), lifeline.fileno()], [], [])
        if lifeline.fileno() in ready and lifeline.gone():
            note(control / "events", f"{name} orphaned")
            return 1
        signals.drain()
        if signals.stop and does != "deaf":
            note(control / "events", f"{name} {signals.stop}")
            return 0


if __name__ == "__main__":
    sys.exit(main())
