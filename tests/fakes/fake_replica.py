"""Stands where ``hpcserve.replica`` would: speaks the agent's protocol, serves nothing.

The manifest's description says what it does: ``ready``, ``hang``, ``fail``, ``exit N``, ``crash N`` (ready
first), ``print N`` (ready first, then N MiB), ``stubborn`` (ready, ignores SIGTERM), ``deaf`` (ready, ignores its
input too), ``parent`` (ready, with a child of its own), ``noise`` (prints before it says that it is ready),
``eat N`` (ready, then takes N MiB of memory). It writes what it was given into ``SERVABLE/REPLICA.json``.
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
    os.write(1, json.dumps(message).encode() + b"\n")


def print_mebibytes(count: int) -> None:
    line = b"x" * 1023 + b"\n"
    for _ in range(count):
        sys.stdout.buffer.write(line * 1024)
    sys.stdout.buffer.write(b"printed everything\n")
    sys.stdout.buffer.flush()


if what in ("stubborn", "deaf"):
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
elif what == "noise":
    os.write(1, b'no report\n{"state": "perhaps"}\nready?')
    os.write(1, b"\n")
    say(state="ready")
    os.write(1, b"half a line")
else:
    say(state="ready")
if what == "deaf":
    time.sleep(600)
if what == "crash":
    os._exit(int(number))
if what == "eat":
    eaten = b"x" * (int(number) << 20)
if what == "print":
    print_mebibytes(int(number))
while os.read(0, 65536):
    pass
os._exit(7)
