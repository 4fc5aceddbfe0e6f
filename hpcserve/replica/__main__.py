"""``python -m hpcserve.replica``: one rank of a replica. Started by an agent, which says the rest on standard input."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import zmq

from hpcserve.core.batching import Policy
from hpcserve.errors import HpcserveError, VersionMismatch
from hpcserve.replica.alarm import Alarm
from hpcserve.replica.broken import EXIT_BROKEN, DeviceBroken
from hpcserve.replica.executor import Executor
from hpcserve.replica.gauge import Gauge
from hpcserve.replica.laps import Laps
from hpcserve.replica.link import Link
from hpcserve.replica.loop import Replica
from hpcserve.replica.nvml import open_nvml
from hpcserve.replica.place import take_place
from hpcserve.replica.start import Lifeline, Mouth
from hpcserve.replica.warmup import warm_up
from hpcserve.servable.api import Context
from hpcserve.servable.lifetime import die_with_parent
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import Batching, Manifest, default_method
from hpcserve.wire.launch import ReplicaSays, ReplicaStart

EXIT_SETUP_FAILED = 3


def main() -> int:
    """Loads the servable, warms it up, serves, tears it down."""
    laps = Laps()
    lifeline, mouth = Lifeline(), Mouth()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        start = lifeline.read_start()
    except VersionMismatch as error:
        mouth.say(ReplicaSays(state="failed", cause=error.message))
        return EXIT_SETUP_FAILED
    manifest = msgspec.json.decode(start.manifest, type=Manifest)
    watch = Watch()
    laps.end("start")
    try:
        # Before anything of the servable is imported: a library looks at it when it first looks for GPUs and CPUs.
        wanted = manifest.ranks.gpus_per_rank
        take_place(os.environ, mine=(start.slot,), slots=start.slots, wanted=wanted, bind=start.bind)
        loaded = _load(start, manifest, watch, laps)
    except HpcserveError as error:
        mouth.say(ReplicaSays(state="failed", cause=error.message, traceback=error.remote_traceback or ""))
        return EXIT_SETUP_FAILED
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    alarm = Alarm(start.hang_grace_s)
    nvml = open_nvml()
    executor = Executor(loaded, default_method(manifest))
    replica = Replica(
        Link(context, Path(start.record), start.public_key, start.secret_key),
        executor,
        lifeline,
        alarm,
        Gauge(None if nvml is None else nvml.seen(os.environ)),
        replica=start.replica,
        version=start.version,
        outbox_bytes=start.outbox_bytes,
        policy_of=lambda method: policy(executor.batching(method), overlaps=method in executor.launching),
        ready=lambda: mouth.say(_ready(laps)),
    )
    watch.ask = replica.gave_up
    signal.signal(signal.SIGTERM, lambda signum, frame: replica.stop())
    # What the servable loaded stays: the collector need not walk it again and again while requests wait.
    gc.collect()
    gc.freeze()
    try:
        replica.run()
    except DeviceBroken as error:
        _broken(error)
    alarm.rest()
    loaded.teardown()
    context.destroy(linger=1000)
    return 0


def _broken(error: DeviceBroken) -> NoReturn:
    """Ends this process at once: what ends it in order, the servable's teardown too, would call a broken GPU."""
    sys.stderr.write(f"this replica ends, for its GPU can compute no more in this process: {error}\n")
    sys.stderr.flush()
    os._exit(EXIT_BROKEN)


def policy(batching: Batching, *, overlaps: bool = False) -> Policy:
    """What the servable says of a method's batches."""
    return Policy(
        max_samples=batching.max_batch_size,
        max_wait_s=batching.max_wait_ms / 1000,
        preferred=batching.preferred_batch_sizes,
        overlaps=overlaps,
    )


class Watch:
    """Lets a servable, which is there before the loop, ask whether anybody still waits."""

    def __init__(self) -> None:
        self.ask: Callable[[], bool] | None = None

    def __call__(self) -> bool:
        """Whether nobody does; False before there is a loop."""
        return self.ask is not None and self.ask()


def _load(start: ReplicaStart, manifest: Manifest, watch: Watch, laps: Laps) -> Loaded:
    context = Context(Path(start.servable), manifest.name, start.version, start.deployment, start.replica, watch)
    loaded = loader_named(manifest.loader).load(manifest, context)
    laps.end("load", apart=loaded.import_s, of="import")
    if manifest.warmup:
        warm_up(loaded, manifest, context.directory)
        laps.end("warm-up")
    return loaded


def _ready(laps: Laps) -> ReplicaSays:
    laps.end("connect")
    return ReplicaSays(state="ready", phases=laps.took_s)


if __name__ == "__main__":
    sys.exit(main())
