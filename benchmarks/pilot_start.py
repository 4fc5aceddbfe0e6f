"""From the start of a pilot's job to its first replica, less what Python takes to import hpcserve and numpy there.

The job's start is slurmctld's. A request waits for the replica meanwhile: that it is answered is what is taken for
ready, so the time has the request in it. What Python takes is measured in a job of its own on the same node, with the
same share of it, right after each pilot: between two readings of bash's clock, so without what Slurm adds to a job.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.facility import LOGIN, Box, Facility, daemon, job_start, status
from benchmarks.machine import undisturbed
from benchmarks.ratios import summary
from hpcserve.client.sync import Client
from hpcserve.wire import admin
from tests.facility.box.host import until
from tests.facility.service import EXAMPLES

TARGET_S = 1.5
PATIENCE_S = 60.0
IMPORTS = f"""\
#!/bin/bash
before=$EPOCHREALTIME
{sys.executable} -c 'import hpcserve, numpy'
echo $before $EPOCHREALTIME
"""


def measure(box: Box, runs: int) -> dict[str, Any]:
    """Starts so many pilots one after the other, and one before that is not counted."""
    with daemon(box, "start", pilots={"idle_s": 0.5}) as (facility, client):
        client.call("publish", admin.Publish(path=str(EXAMPLES / "echo")), admin.Published)
        times = [undisturbed(lambda: _once(box, facility, client), tries=2) for _ in range(runs + 1)][1:]
    by_log, by_record, imports = zip(*times, strict=True)
    more = [log - own for log, own in zip(by_log, imports, strict=True)]
    return {
        "more_than_imports_s": summary(more) | {"worst": round(max(more), 3)},
        "job_start_to_answer_s": summary(by_log) | {"worst": round(max(by_log), 3)},
        "imports_s": summary(imports) | {"worst": round(max(imports), 3)},
        "by_whole_seconds_s": {
            "median": round(median(r - own for r, own in zip(by_record, imports, strict=True)), 3),
            "worst": round(max(r - own for r, own in zip(by_record, imports, strict=True)), 3),
        },
    }


def _once(box: Box, facility: Facility, client: Client) -> tuple[float, float, float]:
    """Seconds from the job's start, by slurmctld's log and by the job's record, and those of the imports."""
    client.call("deploy", admin.Deploy(servable="echo"), admin.Deployed)
    client.infer("echo.echo", np.zeros(64, np.float32), timeout_s=PATIENCE_S)
    answered_s = time.time()
    (pilot,) = status(client).pilots
    by_log, by_record = job_start(box, pilot.job)
    client.call("undeploy", admin.Undeploy(endpoint="echo"), admin.Undeployed)
    until(lambda: not facility.jobs(), "the idle pilot ends", PATIENCE_S)
    return answered_s - by_log, answered_s - by_record, _imports_s(box, pilot.host)


def _imports_s(box: Box, node: str) -> float:
    script, output = box.directory / "imports.sh", box.directory / "imports.out"
    script.write_text(IMPORTS)
    share = ["--cpus-per-task=2", "--mem=1500M", f"--nodelist={node}"]
    box.run(LOGIN, ["sbatch", "--wait", f"--output={output}", *share, str(script)], timeout_s=PATIENCE_S)
    before, after = map(float, output.read_text().split())
    return after - before
