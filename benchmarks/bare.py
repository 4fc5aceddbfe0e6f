"""The two topologies of the baseline, kept running so that measurements can take turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator

import zmq

from benchmarks import bare_zmq

Keys = tuple[bytes, bytes]
SETTLE_S = 0.2


@contextlib.contextmanager
def topologies() -> Iterator[tuple[Keys, dict[str, str]]]:
    """Starts both; yields the server's keys and where a client connects to ``direct`` and to ``broker``."""
    keys: Keys = zmq.curve_keypair()
    direct, front, back = _free_addresses(3)
    spawn = multiprocessing.get_context("spawn")
    up = [spawn.Event() for _ in range(3)]
    children = [
        spawn.Process(target=bare_zmq.worker, args=(direct, keys, True, up[0]), daemon=True),
        spawn.Process(target=bare_zmq.broker, args=(front, back, keys, up[1]), daemon=True),
        spawn.Process(target=bare_zmq.worker, args=(back, keys, False, up[2]), daemon=True),
    ]
    try:
        for child, event in zip(children, up, strict=True):
            child.start()
            event.wait()
        time.sleep(SETTLE_S)  # as the baseline itself does
        yield keys, {"direct": direct, "broker": front}
    finally:
        for child in children:
            child.terminate()
            child.join()


def _free_addresses(count: int) -> list[str]:
    with zmq.Context() as context:
        probes: list[zmq.SyncSocket] = [context.socket(zmq.REP) for _ in range(count)]
        ports = [probe.bind_to_random_port("tcp://127.0.0.1") for probe in probes]
        for probe in probes:
            probe.close(0)
    return [f"tcp://127.0.0.1:{port}" for port in ports]
