"""Between a client and its daemon: a line on which a large frame takes its time, and one that is dead."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from hpcserve import Client
from hpcserve.client.dial import KEEPALIVE_S
from hpcserve.client.services import Service
from hpcserve.wire.record import ServiceRecord, decode_record, encode_record
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, until

OVERRIDES = {"network": {"unix_sockets": False}}
BYTES_PER_S = 200_000
# More than ZeroMQ's heartbeats, of which the first comes after 5 s, waited for when there were any: 20 s.
LONG_S = 28.0
PIECE_BYTES = 4096
WITHIN_S = 100.0
KEEPALIVE_TIMER = "02"


@pytest.fixture(scope="module")
def record(daemon: Daemon) -> ServiceRecord:
    with daemon.client() as client:
        daemon.deploy(client, SERVABLES / "tally")
        daemon.replica_pids(client, "tally")
        daemon.deploy(client, EXAMPLES / "echo")
        daemon.replica_pids(client, "echo")
    return decode_record(daemon.record.read_bytes(), "the record")


@pytest.fixture
def slow_port(record: ServiceRecord) -> Iterator[int]:
    """A port that leads to the daemon's front, at ``BYTES_PER_S`` to there."""
    with line_to(record, PIECE_BYTES / BYTES_PER_S, iter(())) as port:
        yield port


@contextlib.contextmanager
def line_to(record: ServiceRecord, pause_s: float, limits: Iterator[tuple[float, float]]) -> Iterator[int]:
    """A port that leads to the daemon's front.

    Args:
        record: The daemon's.
        pause_s: After each piece that goes there.
        limits: The first connections are cut when so many bytes have gone there, or so many have come back.
    """
    front = ("127.0.0.1", int(record.front[0].rpartition(":")[2]))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * PIECE_BYTES)
    ends: list[socket.socket] = [listener]

    def carry(source: socket.socket, sink: socket.socket, pause_s: float, most: float) -> None:
        with contextlib.suppress(OSError):
            while most > 0 and (data := source.recv(PIECE_BYTES)):
                most -= len(data)
                sink.sendall(data)
                time.sleep(pause_s * len(data) / PIECE_BYTES)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(front)
                ends.extend((near, far))
                there, back = next(limits, (math.inf, math.inf))
                for each in ((near, far, pause_s, there), (far, near, 0.0, back)):
                    threads.append(threading.Thread(target=carry, args=each))
                    threads[-1].start()

    threads = [threading.Thread(target=serve)]
    threads[0].start()
    yield int(listener.getsockname()[1])
    for each in ends:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for each in ends:
        each.close()


def test_a_frame_may_be_on_its_way_for_longer_than_any_heartbeat(
    daemon: Daemon, record: ServiceRecord, slow_port: int, tmp_path: Path
) -> None:
    place = tmp_path / "service.json"
    place.write_bytes(encode_record(replace(record, front=(f"tcp://127.0.0.1:{slow_port}",))))
    blob = np.random.default_rng(3).integers(0, 255, int(BYTES_PER_S * LONG_S), dtype=np.uint8)
    with daemon.environment(), Client(Service(place)) as client:
        began = time.monotonic()
        answer = client.infer("tally.measure", {"blob": blob}, parameters={}, timeout_s=100.0)
        assert answer["size"] == blob.size
        assert time.monotonic() - began > LONG_S / 2, "the line was not slow"


def test_a_connection_that_is_cut_in_mid_frame_is_made_anew(
    daemon: Daemon, record: ServiceRecord, tmp_path: Path
) -> None:
    blob = np.random.default_rng(4).integers(0, 255, 4_000_000, dtype=np.uint8)
    half = blob.nbytes / 2
    limits = iter([(half, math.inf), (half, math.inf), (math.inf, half), (math.inf, half)])
    place = tmp_path / "service.json"
    with line_to(record, 0.0, limits) as port:
        place.write_bytes(encode_record(replace(record, front=(f"tcp://127.0.0.1:{port}",))))
        with daemon.environment(), Client(Service(place)) as client:
            answer = client.infer("echo.blob", blob, timeout_s=WITHIN_S)
            assert np.array_equal(answer["blob"], blob)
    assert not list(limits), "it was cut each time"


def test_a_host_that_is_gone_is_noticed_by_tcp_on_both_sides(daemon: Daemon, record: ServiceRecord) -> None:
    port = int(record.front[0].rpartition(":")[2])
    with daemon.client():
        # Each side of an idle connection waits to ask the other one, for KEEPALIVE_S at most.
        until(
            lambda: (
                len(waits(port)) >= 2
                and all(timer == KEEPALIVE_TIMER and left_s <= KEEPALIVE_S for timer, left_s in waits(port))
            ),
            "two ends of a connection to front wait",
        )


def waits(port: int) -> list[tuple[str, float]]:
    """Of each end of the connections to this port: which timer runs, and for how many seconds yet.

    Source: proc(5), and Documentation/networking/proc_net_tcp.rst of Linux.
    """
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, _, timer, *_ = line.split()
        if state == "01" and f"{port:04X}" in (local.partition(":")[2], remote.partition(":")[2]):
            kind, _, left = timer.partition(":")
            found.append((kind, int(left, 16) / os.sysconf("SC_CLK_TCK")))
    return found
