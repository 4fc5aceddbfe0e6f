"""From a request at zero replicas to its answer, beside a job that is submitted by hand for the same call.

By hand: ``sbatch`` of a script that starts Python, imports numpy and the servable, calls it once, and writes the answer
to a file on the shared file system, which is looked for every ten milliseconds. With hpcserve: one request for a
deployment that is scaled to none, on the same cluster, with nothing else in it. Both take turns.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.facility import LOGIN, Box, Facility, daemon, status
from benchmarks.machine import undisturbed
from benchmarks.ratios import summary
from hpcserve.client.sync import Client
from hpcserve.wire import admin
from tests.facility.box.host import until
from tests.facility.box.options import Options
from tests.facility.service import EXAMPLES

RATIO = 2.0
OPTIONS = Options(enforce="")
"""Of the box."""
PATIENCE_S = 60.0
LOOK_S = 0.01
BY_HAND = """\
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from echo import Echo
answer = Echo().echo(np.zeros(64, np.float32))
np.save(sys.argv[2] + ".part.npy", answer)
os.replace(sys.argv[2] + ".part.npy", sys.argv[2])
"""


def measure(box: Box, runs: int) -> dict[str, Any]:
    """So many runs of each kind in turns, and one of each before that is not counted."""
    with daemon(box, "zero", pilots={"idle_s": 0.5}) as (facility, client):
        client.call("publish", admin.Publish(path=str(EXAMPLES / "echo")), admin.Published)
        wanted = admin.Deploy(servable="echo", replicas=0, max_replicas=1, idle_s=0.5)
        client.call("deploy", wanted, admin.Deployed)
        times = [undisturbed(lambda: _pair(box, facility, client), tries=2) for _ in range(runs + 1)][1:]
    ours, by_hand = zip(*times, strict=True)
    ratios = [own / hand for own, hand in times]
    return {
        "answer_s": summary(ours) | {"worst": round(max(ours), 3)},
        "by_hand_s": summary(by_hand) | {"worst": round(max(by_hand), 3)},
        "ratio": summary(ratios) | {"worst": round(max(ratios), 3)},
        "more_s": round(median(own - hand for own, hand in times), 3),
    }


def _pair(box: Box, facility: Facility, client: Client) -> tuple[float, float]:
    until(lambda: not facility.jobs() and not status(client).deployments[0].replicas, "nothing is left", PATIENCE_S)
    began = time.monotonic()
    client.infer("echo.echo", np.zeros(64, np.float32), timeout_s=PATIENCE_S)
    ours_s = time.monotonic() - began
    until(lambda: not facility.jobs(), "the idle pilot ends", PATIENCE_S)
    return ours_s, _by_hand_s(box)


def _by_hand_s(box: Box) -> float:
    program, answer, script = (box.directory / name for name in ("call.py", "answer.npy", "call.sh"))
    program.write_text(BY_HAND)
    script.write_text(f"#!/bin/bash\nexec {sys.executable} {program} {EXAMPLES / 'echo'} {answer}\n")
    answer.unlink(missing_ok=True)
    share = ["--cpus-per-task=2", "--mem=1500M", "--output=/dev/null"]
    began = time.monotonic()
    box.run(LOGIN, ["sbatch", *share, str(script)], timeout_s=PATIENCE_S)
    _wait_for(answer)
    return time.monotonic() - began


def _wait_for(answer: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not answer.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"no answer by hand within {PATIENCE_S:g} s")
        time.sleep(LOOK_S)
