"""Stands where ``hpcserve.replica`` would: speaks the agent's protocol, serves nothing.

The manifest's description says what it does: ``ready``, ``hang``, ``fail``, ``exit N``, ``crash N`` (ready
first), ``print N`` (ready first, then N MiB), ``stubborn`` (ready, ignores SIGTERM), ``parent`` (ready, with
a child of its own), ``garbage``. It writes what it was given into ``SERVABLE/REPLICA.json``.
"""

import json
import os
import signal
import subprocess
import sys
import time

start = json.loads(sys.stdin.buffer.readline())
what, _, number = json.loads(start["manifest"])["description"].partition(" ")
facts = {"pid": os.getpid(), "argv": sys.argv, "environment": dict(os.environ), "start": start, "child": None}


def say(**message: object) -> None:
    os.write(start["report_fd"], json.dumps(message).encode() + b"\n")


def print_mebibytes(count: int) -> None:
    line = b"x" * 1023 + b"\n"
    for _ in range(count):
        sys.stdout.buffer.write(line * 1024)
    sys.stdout.buffer.write(b"printed everything\n")
    sys.stdout.buffer.flush()


if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if what == "parent":
    facts["child"] = subprocess.Popen(["sleep", "600"]).pid
part = os.path.join(start["servable"], start["replica"] + ".part")
with open(part, "w") as file:
    json.dump(facts, file)
os.rename(part, part[: -len("part")] + "json")
print("replica", start["replica"], "started")
print("to stderr", file=sys.stderr)

if what == "hang":
    time.sleep(600)
elif what == "fail":
    say(state="failed", cause="ValueError: no weights", traceback="Traceback: no weights")
    sys.exit(1)
elif what == "exit":
    os._exit(int(number))
elif what == "garbage":
    os.write(start["report_fd"], b"not json\n")
else:
    say(state="ready")
if what == "crash":
    os._exit(int(number))
if what == "print":
    print_mebibytes(int(number))
while os.read(0, 65536):
    pass
os._exit(7)
