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

from hpcserve import __version__
from hpcserve.core.batching import Policy
from hpcserve.errors import ConfigError, HpcserveError, ManifestError, VersionMismatch
from hpcserve.replica.alarm import Alarm
from hpcserve.replica.broken import EXIT_BROKEN, DeviceBroken
from hpcserve.replica.executor import Executor, Servable
from hpcserve.replica.follower import Follower, told_start
from hpcserve.replica.gauge import Gauge, OfAllRanks
from hpcserve.replica.laps import Laps
from hpcserve.replica.lead import Lead, whole_or_none
from hpcserve.replica.link import Link
from hpcserve.replica.loop import Replica
from hpcserve.replica.mpi import World, alone
from hpcserve.replica.nvml import Gpus, open_nvml
from hpcserve.replica.place import take_place
from hpcserve.replica.rank import forget_launcher, rank_of
from hpcserve.replica.running import Running
from hpcserve.replica.sigterm import on_sigterm
from hpcserve.replica.start import Lifeline, Mouth, print_whole_lines
from hpcserve.replica.sweep import sweep_at_end
from hpcserve.replica.told import failure_of
from hpcserve.replica.warmup import warm_up
from hpcserve.servable.api import Context
from hpcserve.servable.lifetime import die_with_parent
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import Batching, Manifest, default_method
from hpcserve.wire.frames import encode
from hpcserve.wire.launch import ReplicaSays, ReplicaStart
from hpcserve.wire.ranks import Done

EXIT_SETUP_FAILED = 3
LINGER_MS = 1000
LOST_S = 10.0
"""A launcher tells the ranks that are left by a SIGTERM that one has died, for which an order may wait for ever."""


def main() -> int:
    """Loads the servable, warms it up, serves, tears it down; or follows rank 0, which does."""
    laps = Laps()
    sweep_at_end(os.environ)
    forget_launcher(os.environ)
    rank = rank_of(sys.argv[1:], os.environ)
    lifeline, mouth = Lifeline(), Mouth()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # Before anything of MPI or the servable is imported: libraries look at it once.
        take_place(os.environ, mine=rank.held, slots=rank.node_slots, wanted=rank.gpus, bind=rank.bind)
        if rank.size == 1:
            return serve(lifeline, mouth, laps, None)
        print_whole_lines()
        world = World(rank)
    except HpcserveError as error:  # its GPUs, its MPI: they are as the site has made them
        mouth.say(ReplicaSays(state="failed", cause=error.message, lasting=True))
        return EXIT_SETUP_FAILED
    with whole_or_none(world):
        return follow(world) if world.rank else serve(lifeline, mouth, laps, world)


def serve(lifeline: Lifeline, mouth: Mouth, laps: Laps, world: World | None) -> int:
    """A replica of one rank, or rank 0 of several."""
    try:
        start = lifeline.read_start()
    except VersionMismatch as error:
        return _give_up(mouth, error, world)
    manifest = msgspec.json.decode(start.manifest, type=Manifest)
    watch = Watch()
    laps.end("start")
    lead = Lead(world, manifest.ranks.compute, start.collective_grace_s)
    lead.on_lost(lambda error: _give_up(mouth, error, world))
    try:
        lead.begin(start)
        loaded = _load(manifest, _context(start, manifest, world, watch), laps, "rank 0: " if world is not None else "")
        servable = lead.whole(loaded)
        if manifest.warmup:
            warm_up(servable, manifest, Path(start.servable))
            laps.end("warm-up")
    except HpcserveError as error:
        return _give_up(mouth, error, world)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    alarm = Alarm(start.hang_grace_s)
    executor = Executor(servable, default_method(manifest))
    link = Link(context, Path(start.record), start.public_key, start.secret_key)
    running = Running(
        link,
        executor,
        alarm,
        replica=start.replica,
        version=start.version,
        image=manifest.environment.published.sha256 if manifest.environment.published else "",
        outbox_bytes=start.outbox_bytes,
        staging=start.staging,
        servable=manifest.name,
        policy_of=lambda method: policy(executor.batching(method), overlaps=method in executor.launching),
        why_broken=lead.why_broken,
    )
    watch.ask = running.gave_up
    lead.on_lost(lambda error: _break(running, error, context, world))
    gauge = Gauge(_devices() if world is None else OfAllRanks(_devices(), world.devices))
    replica = Replica(link, running, lifeline, alarm, gauge, ready=lambda: mouth.say(_ready(laps)))
    if world is None:
        signal.signal(signal.SIGTERM, lambda signum, frame: replica.stop())
    else:
        on_sigterm(lambda: _stop(replica, alarm))
    # What the servable loaded stays: the collector need not walk it again and again while requests wait.
    gc.collect()
    gc.freeze()
    try:
        replica.run()
    except DeviceBroken as error:
        _broken(error, world)
    alarm.rest()
    if lead.why_broken() is not None:
        _leave(context, world)
    code = _tear_down(servable)
    context.destroy(linger=LINGER_MS)
    return code


def follow(world: World) -> int:
    """Any other rank: it ends when rank 0 says so, or with it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    on_sigterm(_end_soon)  # some launchers send it to all ranks: rank 0 decides, if it is still there
    start = told_start(world, f"hpcserve {__version__}")
    if start is None:
        return EXIT_SETUP_FAILED
    manifest = msgspec.json.decode(start.manifest, type=Manifest)
    try:
        loaded = loader_named(manifest.loader).load(manifest, _context(start, manifest, world, Watch()))
    except HpcserveError as error:
        sys.stderr.write(f"{error}\n")
        world.answer(encode(failure_of(error)))
        told_start(world, "")  # the end: rank 0 tells the agent first
        return EXIT_SETUP_FAILED
    gauge = Gauge(_devices())
    world.answer(encode(Done(devices=gauge.read())))
    gc.collect()
    gc.freeze()
    Follower(loaded, world, gauge).serve()
    return _tear_down(loaded)


def _devices() -> Gpus | None:
    nvml = open_nvml()
    return None if nvml is None else nvml.seen(os.environ)


def _stop(replica: Replica, alarm: Alarm) -> None:
    replica.stop()
    alarm.end_within(LOST_S)


def _end_soon() -> None:
    if not any(signal.getitimer(signal.ITIMER_REAL)):
        signal.setitimer(signal.ITIMER_REAL, LOST_S)


def _broken(error: DeviceBroken, world: World | None) -> NoReturn:
    """Ends this process at once: what ends it in order, the servable's teardown too, would call a broken GPU."""
    sys.stderr.write(f"this replica ends, for its GPU can compute no more in this process: {error}\n")
    sys.stderr.flush()
    if world is not None:
        world.abort(EXIT_BROKEN)
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


def _context(start: ReplicaStart, manifest: Manifest, world: World | None, watch: Watch) -> Context:
    return Context(
        Path(start.servable),
        manifest.name,
        start.version,
        start.deployment,
        start.replica,
        rank=0 if world is None else world.rank,
        size=1 if world is None else world.size,
        watch=watch,
        communicator=alone if world is None else lambda: world.comm,
    )


def _load(manifest: Manifest, context: Context, laps: Laps, who: str) -> Loaded:
    try:
        loaded = loader_named(manifest.loader).load(manifest, context)
    except HpcserveError as error:
        error.message = who + error.message
        raise
    laps.end("load", apart=loaded.import_s, of="import")
    return loaded


def _give_up(mouth: Mouth, error: HpcserveError, world: World | None) -> int:
    """The setup has failed: the agent is told, and of several ranks none goes on."""
    lasting = isinstance(error, (ConfigError, ManifestError, VersionMismatch))
    mouth.say(ReplicaSays(state="failed", cause=error.message, traceback=error.remote_traceback or "", lasting=lasting))
    if world is not None:
        world.abort(EXIT_SETUP_FAILED)
    return EXIT_SETUP_FAILED


def _break(
    running: Running, error: HpcserveError, context: zmq.Context[zmq.Socket[bytes]], world: World | None
) -> None:
    """The main thread will never return from what runs: what can be told is told in its stead."""
    running.fail(error)
    _leave(context, world)


def _tear_down(servable: Servable) -> int:
    """Returns the exit code: a teardown that fails is told, and must not keep other ranks from theirs."""
    try:
        servable.teardown()
    except HpcserveError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _leave(context: zmq.Context[zmq.Socket[bytes]], world: World | None) -> None:
    """Ends all ranks, after what is said has left."""
    context.destroy(linger=LINGER_MS)
    if world is not None:
        world.abort(EXIT_BROKEN)


def _ready(laps: Laps) -> ReplicaSays:
    laps.end("connect")
    return ReplicaSays(state="ready", phases=laps.took_s)


if __name__ == "__main__":
    sys.exit(main())
