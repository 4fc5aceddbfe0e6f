"""The same calls of the same daemon by TCP and through ssh, in turns, and what ssh itself takes for as many bytes.

All on one host, with a real sshd on loopback that only this benchmark knows: so it is the price of the tunnel's four
more processes (ssh, two of sshd, ``hpcserve connect``), and none of a network. ``ssh_cat`` is ``ssh LOGIN cat``, whose
bytes come back: nothing through ssh is quicker.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np

from benchmarks.ratios import summary
from benchmarks.roundtrip import LARGE_BYTES, LARGE_WINDOW, SMALL, TCP_SITE, WINDOW, Measured, in_turns, measure
from benchmarks.service import running
from hpcserve.client.sync import Client
from tests.integration.sshd import Sshd, missing, sshd_in

RATIOS = (("ratio_p50", "small", "p50_us"), ("ratio_rps", "small", "rps"), ("mbps_ratio", "large", "mbps"))


def run(*, pairs: int, n: int = 500, large_n: int = 8, starts: int = 10) -> dict[str, Any]:
    """Measures ``pairs`` pairs, and ``starts`` times how long a client takes to connect."""
    lacking = missing()
    if lacking:
        raise SystemExit(f"no sshd for benchmark 'ssh': {lacking}")
    with running(TCP_SITE) as service, _sshd() as sshd:
        service.deploy_echo(1)
        started = {"tcp": [_start_s(None) for _ in range(starts)], "ssh": [_start_s(sshd) for _ in range(starts)]}
        blob = np.zeros(LARGE_BYTES, np.uint8)
        with Client() as tcp, Client(sshd.address()) as ssh, _cat(sshd) as cat:
            found = {
                "small": in_turns(
                    pairs,
                    {
                        "tcp": lambda: measure(tcp, "echo.echo", SMALL, n, WINDOW),
                        "ssh": lambda: measure(ssh, "echo.echo", SMALL, n, WINDOW),
                        "ssh_cat": lambda: _echoed(cat, SMALL.nbytes, n),
                    },
                ),
                "large": in_turns(
                    pairs,
                    {
                        "tcp": lambda: measure(tcp, "echo.blob", blob, large_n, LARGE_WINDOW),
                        "ssh": lambda: measure(ssh, "echo.blob", blob, large_n, LARGE_WINDOW),
                        "ssh_cat": lambda: _echoed(cat, LARGE_BYTES, 3 * large_n),
                    },
                ),
            }
    return _report(found, started, n, large_n)


@contextlib.contextmanager
def _sshd() -> Iterator[Sshd]:
    """A login node of which this process's ``ssh`` knows."""
    before = os.environ["PATH"]
    with (
        tempfile.TemporaryDirectory() as place,
        sshd_in(Path(place) / "sshd", {name: os.environ[name] for name in ("HPCSERVE_HOME", "HPCSERVE_SITE")}) as sshd,
    ):
        os.environ["PATH"] = sshd.path
        try:
            yield sshd
        finally:
            os.environ["PATH"] = before


def _start_s(sshd: Sshd | None) -> float:
    start = time.perf_counter()
    with Client(None if sshd is None else sshd.address()):
        return time.perf_counter() - start


Streams = tuple[IO[bytes], IO[bytes]]


@contextlib.contextmanager
def _cat(sshd: Sshd) -> Iterator[Streams]:
    """What is written to the first comes back from the second."""
    argv = ["ssh", "-T", "-p", str(sshd.port), "127.0.0.1", "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdin, process.stdout
        process.stdin.close()


def _echoed(streams: Streams, size: int, count: int) -> Measured:
    """Sends ``count`` times ``size`` bytes, one after the other if they are few, else all at once."""
    there, back = streams
    data = bytes(size)
    times = []
    for _ in range(count if size == SMALL.nbytes else 0):
        start = time.perf_counter()
        there.write(data)
        there.flush()
        back.read(size)
        times.append(time.perf_counter() - start)

    def write() -> None:
        for _ in range(count):
            there.write(data)
        there.flush()

    writer = threading.Thread(target=write)
    start = time.perf_counter()
    writer.start()
    for _ in range(count):
        assert len(back.read(size)) == size, "ssh has ended"
    elapsed = time.perf_counter() - start
    writer.join()
    found = {"mbps": 2 * size * count / elapsed / 1e6}
    return found | ({"p50_us": median(times) * 1e6} if times else {})


def _report(
    found: dict[str, dict[str, list[Measured]]], started: dict[str, list[float]], n: int, large_n: int
) -> dict[str, Any]:
    small, large = found["small"], found["large"]
    ratios = {
        name: summary(
            [ours[key] / theirs[key] for ours, theirs in zip(found[of]["ssh"], found[of]["tcp"], strict=True)]
        )
        for name, of, key in RATIOS
    }
    ratios["mbps_ratio_cat"] = summary(
        [ours["mbps"] / bare["mbps"] for ours, bare in zip(large["ssh"], large["ssh_cat"], strict=True)]
    )
    report: dict[str, Any] = {
        side: {key: round(median(each[key] for each in small[side]), 1) for key in ("p50_us", "p99_us", "rps")}
        for side in ("tcp", "ssh")
    }
    report["ssh_cat"] = {"p50_us": round(median(each["p50_us"] for each in small["ssh_cat"]), 1)}
    report["mbps"] = {side: round(median(each["mbps"] for each in measured), 1) for side, measured in large.items()}
    report["connect_s"] = {side: round(median(times), 3) for side, times in started.items()}
    report |= {name: of["median"] for name, of in ratios.items()}
    report["intervals"] = ratios
    report["method"] = {
        "transport": {"tcp": "loopback", "ssh": "loopback, then tcp from hpcserve connect to the daemon"},
        "interval": "median of the pairs' ratios, between order statistics, at least 95 %",
        "small": {"bytes": SMALL.nbytes, "sequential": n, "pipelined": 2 * n, "outstanding": WINDOW},
        "large": {"bytes": LARGE_BYTES, "pipelined": 2 * large_n, "outstanding": LARGE_WINDOW},
    }
    return report
