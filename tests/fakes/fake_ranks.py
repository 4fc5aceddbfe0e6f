"""Stands where ``hpcserve.replica`` of several ranks would: real MPI, which serves nothing.

The manifest's description says what it does once rank 0 has said that it is ready: ``ready`` (waits for the end of its
input, and ends all ranks in order), ``kill N`` (rank N is killed), ``exit N`` (the last rank exits with N), ``abort``:
these once there is a file ``SERVABLE/REPLICA.now``, since what rank 0 says takes a while to arrive; ``deaf`` (its input
may end, and it ignores SIGTERM), ``stuck`` (the same, and rank 0 waits within MPI for the others).
Each rank writes who it is into ``SERVABLE/REPLICA.rank.N.json``.
"""

import json
import os
import signal
import sys
import time

from mpi4py import MPI

world = MPI.COMM_WORLD
start = json.loads(sys.stdin.buffer.readline()) if world.rank == 0 else None
start = world.bcast(start)
what, _, number = json.loads(start["manifest"])["description"].partition(" ")
facts = {
    "pid": os.getpid(),
    "argv": sys.argv,
    "rank": world.rank,
    "size": world.size,
    "node": os.uname().nodename,
    "told": os.environ.get("PMI_RANK"),
    "of_others": {name: value for name, value in os.environ.items() if name.startswith(("OMPI_", "PALS_"))},
    "start": start,
}
if what in ("deaf", "stuck"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
path = os.path.join(start["servable"], f"{start['replica']}.rank.{world.rank}.json")
with open(path + ".part", "w") as file:
    json.dump(facts, file)
os.rename(path + ".part", path)
world.Barrier()
if world.rank == 0:
    os.write(1, json.dumps({"state": "ready"}).encode() + b"\n")
while what in ("kill", "exit", "abort") and not os.path.exists(
    os.path.join(start["servable"], f"{start['replica']}.now")
):
    time.sleep(0.01)
if what == "kill" and world.rank == int(number):
    os.kill(os.getpid(), signal.SIGKILL)
if what == "exit" and world.rank == world.size - 1:
    os._exit(int(number))
if what == "abort" and world.rank == world.size - 1:
    world.Abort(5)
if what in ("deaf", "stuck"):
    if world.rank == 0 and what == "stuck":
        world.Barrier()
    time.sleep(600)
if world.rank == 0:
    while os.read(0, 65536):
        pass
request = world.Ibarrier()
while not request.Test():
    time.sleep(0.01)
