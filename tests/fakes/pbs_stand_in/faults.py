"""How a command misbehaves, where a test says so: ``faults`` of the state, by the command's name or ``all``.

``down``: the server is not there. ``hang``: no answer. ``refuses``: with its ``exit_code`` and ``text``. ``half``: the
answer breaks off. ``banner``: its ``text`` stands before what else it prints. ``nothing``: it is empty. ``garbage``: it
is none of PBS's. ``silent``: it does what it is asked, and hangs before it says so.
Only the exit codes of ``down`` are noted beside the recordings; its texts are those of OpenPBS's source.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.fakes.pbs_stand_in.store import State

_DOWN = {
    "qstat": (255, "qstat: cannot connect to server {host} (errno=15010)"),
    "qsub": (162, "qsub: cannot connect to server {host} (errno=15010)"),
    "qdel": (162, "Couldn't connect to cluster: {host}"),
    "qselect": (162, "qselect: cannot connect to server {host} (errno=15010)"),
    "pbsnodes": (162, "pbsnodes: cannot connect to server {host}, error=15010"),
}


def of(state: State, command: str) -> dict[str, Any]:
    """What the command does instead, if anything."""
    faults: dict[str, dict[str, Any]] = state["faults"]
    return faults.get(command) or faults.get("all") or {}


def hang() -> None:
    """Gives no answer for as long as anybody waits."""
    time.sleep(600)


def down(state: State, command: str) -> int:
    """The answer of a command without its server."""
    code, text = _DOWN[command]
    sys.stderr.write(f"Connection refused\n{text.format(host=state['host'])}\n")
    return code
