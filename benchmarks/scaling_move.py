"""A daemon moves to the other login node under load: how soon are replicas and clients back, and is anything lost?

``python -m benchmarks.scaling_move [--json] [--quick]`` measures this alone.

``in_order``: ``hpcserve down --pilots keep``, and then ``hpcserve up`` on the other login node. ``killed``: all of its
processes are, and then the same ``up``, which first watches the lease for ``recovery.lease_s``. Pilots and clients are
told nothing; the clients are on both login nodes and on two compute nodes. Back are the replicas when the new daemon
says that all are connected and ready, and the clients when each has the answers to all that it waited for when the old
one was gone. Times are from the beginning of the move, the call of ``down`` or the kill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.facility import TIMED, Box, Facility, Feed, answered, daemon, status
from benchmarks.machine import measured
from hpcserve.client.sync import Client
from hpcserve.wire import admin
from tests.facility.box.files import LOGIN
from tests.facility.box.machine import lacks
from tests.facility.box.options import Options

BACK_S = 10.0
HOWS = ("in_order", "killed")
LOGINS = (LOGIN, f"{LOGIN}2")
HOSTS = (*LOGINS, "node1", "node2")
"""Where the clients are."""
NODES = 4
OPTIONS = Options(logins=len(LOGINS), nodes=NODES)
"""Of the box."""
LEASE_S = 2.0
OUTSTANDING = 16
"""Requests of each client."""
RUN_S = 0.05
WARM_UP_S = 1.0
LOOK_S = 0.05
PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Move:
    """What was seen of one move; times are from its beginning.

    Attributes:
        in_flight: So many requests were waited for when the old daemon was gone.
        replaced: So many replicas were not there any more, or are other processes.
        down_s: Until it was gone.
        up_s: Until ``hpcserve up`` returned.
        replicas_s: Until all replicas were back.
        clients_s: Until all that was waited for was answered.
    """

    in_flight: int
    replaced: int
    down_s: float
    up_s: float
    replicas_s: float
    clients_s: float


def run(*, replicas: int = 20, moves: int = 3) -> dict[str, Any]:
    """Measures on a box of its own.

    Args:
        replicas: So many, on four nodes.
        moves: So many times the daemon moves in each way, to and fro.

    Raises:
        SystemExit: This machine cannot hold a box.
    """
    missing = lacks()
    if missing:
        raise SystemExit(f"no real Slurm for benchmark 'scaling', part 'move': {missing}")
    with Box(OPTIONS) as box:
        return measure(box, replicas=replicas, moves=moves)


def measure(box: Box, *, replicas: int, moves: int) -> dict[str, Any]:
    """The same on a box with these options."""
    tables: dict[str, dict[str, Any]] = {
        "network": {"host": "switch"},
        "pilots": {"slots": -(-replicas // NODES)},
        "recovery": {"lease_s": LEASE_S},
    }
    with daemon(box, "move", **tables) as (facility, client), contextlib.ExitStack() as stack:
        facility.deploy(client, TIMED, replicas=replicas)
        logs = [facility.home / f"runs-{host}" for host in HOSTS]
        clients = [stack.enter_context(facility.client(host)) for host in HOSTS]
        feeds = [Feed(one, log, outstanding=OUTSTANDING, sleep_s=RUN_S) for one, log in zip(clients, logs, strict=True)]
        with contextlib.ExitStack() as feeding:
            for feed in feeds:
                feeding.enter_context(feed)
            found = {how: [_moved(facility, client, feeds, how) for _ in range(moves)] for how in HOWS}
        for feed in feeds:
            feed.wait()
        futures = [future for feed in feeds for future in feed.futures]
    return {
        "replicas": replicas,
        "clients": len(HOSTS),
        "lease_s": LEASE_S,
        "requests": len(futures),
        "lost": len(futures) - answered(futures),
        "ran_twice": sum(_ran_twice(log) for log in logs),
        **{how: _summed_up(found[how]) for how in HOWS},
    }


def _summed_up(found: Sequence[Move]) -> dict[str, Any]:
    return {
        "in_flight": [each.in_flight for each in found],
        "replicas_replaced": sum(each.replaced for each in found),
        **{
            name: {"median": round(median(times), 2), "worst": round(max(times), 2)}
            for name, times in (
                ("down_s", [each.down_s for each in found]),
                ("up_s", [each.up_s for each in found]),
                ("replicas_back_s", [each.replicas_s for each in found]),
                ("clients_back_s", [each.clients_s for each in found]),
                ("back_s", [max(each.replicas_s, each.clients_s) for each in found]),
            )
        },
    }


def targets() -> dict[str, str]:
    """What is to be reached."""
    return {
        "lost": "0",
        **{f"{how}.replicas_replaced": "0" for how in HOWS},
        **{f"{how}.back_s.worst": f"< {BACK_S:g}" for how in HOWS},
    }


def reached(found: dict[str, Any]) -> dict[str, bool]:
    """What of it was."""
    return {
        "lost": found["lost"] == 0,
        **{f"{how}.replicas_replaced": found[how]["replicas_replaced"] == 0 for how in HOWS},
        **{f"{how}.back_s.worst": found[how]["back_s"]["worst"] < BACK_S for how in HOWS},
    }


def _moved(facility: Facility, client: Client, feeds: Sequence[Feed], how: str) -> Move:
    """One move, to the login node where the daemon is not."""
    time.sleep(WARM_UP_S)
    before = _replicas(status(client))
    began_s = time.monotonic()
    if how == "killed":
        facility.kill("all")
    else:
        facility.cli("down", "--pilots", "keep")
    down_s = time.monotonic() - began_s
    answered_s = [time.monotonic()]
    waited_for: list[Future[Any]] = [future for feed in feeds for future in feed.in_flight()]
    for future in waited_for:
        future.add_done_callback(lambda _: answered_s.append(time.monotonic()))
    facility.up(login=LOGINS[1 - LOGINS.index(facility.login)])
    up_s = time.monotonic() - began_s
    while not _all_back(told := status(client), len(before)) and time.monotonic() < began_s + PATIENCE_S:
        time.sleep(LOOK_S)
    replicas_s = time.monotonic() - began_s
    for future in waited_for:
        future.exception(PATIENCE_S)
    return Move(
        in_flight=len(waited_for),
        replaced=len(before - _replicas(told)),
        down_s=down_s,
        up_s=up_s,
        replicas_s=replicas_s,
        clients_s=max(answered_s) - began_s,
    )


def _replicas(told: admin.Status) -> set[tuple[str, int | None]]:
    """The names and process ids of all that are ready."""
    return {(each.replica, each.pid) for one in told.deployments for each in one.replicas if each.state == "ready"}


def _all_back(told: admin.Status, replicas: int) -> bool:
    there = [each for one in told.deployments for each in one.replicas if each.state == "ready" and each.connected]
    return len(there) >= replicas


def _ran_twice(log: Path) -> int:
    begun = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("began")]
    return len(begun) - len(set(begun))


def main() -> int:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_move")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line, instead of indented")
    parser.add_argument("--quick", action="store_true", help="does it run? The numbers mean nothing")
    options = parser.parse_args()
    found = measured("scaling_move", sys.argv[1:], lambda: run(replicas=4, moves=1) if options.quick else run())
    found |= {"targets": targets(), "reached": reached(found)}
    print(json.dumps(found, indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
