"""``python -m hpcserve.replica``: one rank of a replica. Started by an agent, which says the rest on standard input."""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path

import msgspec
import zmq

from hpcserve.errors import HpcserveError
from hpcserve.replica.alarm import Alarm
from hpcserve.replica.executor import Executor
from hpcserve.replica.link import Link
from hpcserve.replica.loop import Replica
from hpcserve.replica.start import Lifeline, say
from hpcserve.servable.api import Context
from hpcserve.servable.lifetime import die_with_parent
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import Manifest, default_method
from hpcserve.wire.launch import ReplicaSays, ReplicaStart

EXIT_SETUP_FAILED = 3


def main() -> int:
    """Loads the servable, serves, tears it down."""
    lifeline = Lifeline()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = lifeline.read_start()
    manifest = msgspec.json.decode(start.manifest, type=Manifest)
    try:
        loaded = _load(start, manifest)
    except HpcserveError as error:
        say(start.report_fd, ReplicaSays(state="failed", cause=error.message, traceback=error.remote_traceback or ""))
        return EXIT_SETUP_FAILED
    say(start.report_fd, ReplicaSays(state="ready"))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    alarm = Alarm(start.hang_grace_s)
    replica = Replica(
        Link(context, Path(start.record), start.public_key, start.secret_key),
        Executor(loaded, default_method(manifest)),
        lifeline,
        alarm,
        replica=start.replica,
        version=start.version,
        outbox_bytes=start.outbox_bytes,
    )

    signal.signal(signal.SIGTERM, lambda signum, frame: replica.stop())
    # What the servable loaded stays: the collector need not walk it again and again while requests wait.
    gc.collect()
    gc.freeze()
    replica.run()
    alarm.rest()
    loaded.teardown()
    context.destroy(linger=1000)
    return 0


def _load(start: ReplicaStart, manifest: Manifest) -> Loaded:
    context = Context(Path(start.servable), manifest.name, start.version, start.deployment, start.replica)
    return loader_named(manifest.loader).load(manifest, context)


if __name__ == "__main__":
    sys.exit(main())
