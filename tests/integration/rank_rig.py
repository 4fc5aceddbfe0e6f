"""Replicas of several MPI ranks, started by the environment's own mpiexec, and a broker of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from zmq.utils import z85

from hpcserve import __version__
from hpcserve.registry.manifest_file import read_manifest
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import to_json
from hpcserve.types import Counter, Epoch, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decoder, encode, error_from_wire, from_raw, raw
from hpcserve.wire.launch import ReplicaSays, ReplicaStart, decode_says, encode_line
from hpcserve.wire.tensor import pack, unpack
from tests.integration.agent_rig import gone, record_at

ROOT = Path(__file__).resolve().parents[2]
SERVABLES = ROOT / "tests" / "data" / "servables"
MPIEXEC = Path(sys.executable).parent / "mpiexec"
PATIENCE_S = 60.0
GRACE_S = 0.5
SESSION = SessionId(bytes(32))

_decode = decoder(
    wire.Inventory | wire.Result | wire.Items | wire.Credit | wire.Learned | wire.OutOfMemory | wire.Runs | wire.Devices
)


def group_command(size: int, *, of: int | None = None) -> list[str]:
    """The command line of a group; ``of``: so many ranks are told of, if it is another number."""
    ranks = ":".join(str(rank) for rank in range(of or size))
    replica = [sys.executable, "-m", "hpcserve.replica", "--node-slots", str(of or size), "--ranks", ranks]
    return [str(MPIEXEC), "-n", str(size), *replica]


class Group:
    """One replica, and the broker's side of it.

    Args:
        servable: Its name, among those of the tests.
        place: A directory for what the group needs on disk.
        size: How many ranks there are.
        of: How many ranks the replica is told of.
        variables: More of its environment.
        hang_grace_s: So long after its deadline a request may still run.
    """

    def __init__(
        self,
        servable: str,
        place: Path,
        *,
        size: int = 4,
        of: int | None = None,
        command: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        hang_grace_s: float = 60.0,
    ) -> None:
        public, secret = zmq.curve_keypair()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.back = self.context.socket(zmq.ROUTER)
        self.back.linger = 0
        self.back.curve_server = True
        self.back.curve_secretkey = secret
        self.losses = self.back.get_monitor_socket(zmq.Event.DISCONNECTED)
        port = self.back.bind_to_random_port("tcp://127.0.0.1")
        record = place / "service.json"
        record.write_bytes(record_at(port, port, public_key=public.decode()))
        self.notes = place / "notes"
        self.notes.mkdir()
        self.log = place / "replica.log"
        self.identity = b""
        self.requests = 0
        self.results: dict[int, tuple[wire.Result, list[bytes]]] = {}
        self.items: dict[int, list[dict[str, Any]]] = {}
        self.limits: dict[str, int] = {}
        self.fits: list[wire.Fits] = []
        self.inventories = 0
        self.devices: tuple[wire.DeviceUse, ...] = ()
        self.start = self._start(SERVABLES / servable, record, hang_grace_s)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTES": str(self.notes), **(variables or {})}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*(command or group_command(size, of=of))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(encode_line(self.start))
        self.process.stdin.flush()

    def _start(self, servable: Path, record: Path, hang_grace_s: float) -> ReplicaStart:
        public, secret = zmq.curve_keypair()
        manifest = read_manifest(servable)
        found = loader_named(manifest.loader).discover(manifest, servable)
        return ReplicaStart(
            replica="r-1",
            deployment="d",
            version="v1",
            servable=str(servable),
            manifest=to_json(msgspec.structs.replace(manifest, methods=found)),
            record=str(record),
            public_key=z85.decode(public),
            secret_key=z85.decode(secret),
            outbox_bytes=1 << 30,
            hang_grace_s=hang_grace_s,
            collective_grace_s=GRACE_S,
            software=f"hpcserve {__version__}",
        )

    def says(self) -> ReplicaSays:
        """What rank 0 tells the agent."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it said nothing: {self.log.read_text()}"
        return decode_says(line)

    def ready(self) -> Group:
        """Waits until it serves."""
        said = self.says()
        assert said.state == "ready", f"{said}: {self.log.read_text()}"
        while not self.identity:
            self.take()
        return self

    def send(
        self,
        method: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        remaining_ms: int | None = None,
        window: wire.Window | None = None,
        **inputs: Any,
    ) -> int:
        """Sends a request; returns its number."""
        self.requests += 1
        specs, frames = pack(inputs)
        work = wire.Work(
            Epoch(1),
            self.requests,
            SESSION,
            Counter(self.requests),
            method,
            specs,
            raw(dict(parameters or {})),
            remaining_ms,
            window=window,
        )
        self.back.send_multipart([self.identity, encode(work), *map(bytes, frames)])
        return self.requests

    def take(self, within_s: float = PATIENCE_S) -> None:
        """Takes one message."""
        assert self.back.poll(int(within_s * 1000)), f"nothing came: {self.log.read_text()}"
        identity, header, *frames = self.back.recv_multipart()
        self.identity = identity
        message = _decode(header)
        if isinstance(message, wire.Result):
            self.results[message.id] = message, frames
        elif isinstance(message, wire.Items):
            items = from_raw(message.items, tuple[wire.Item, ...])
            found = [unpack(item.tensors, list(item.enclosed) or frames) for item in items]
            self.items.setdefault(message.id, []).extend(found)
        elif isinstance(message, wire.Inventory):
            self.inventories += 1
        elif isinstance(message, wire.Learned):
            self.limits.update({each.method: each.limit for each in message.kinds})
        elif isinstance(message, wire.OutOfMemory):
            self.fits.append(message.fits)
        elif isinstance(message, wire.Devices):
            self.devices = message.devices

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is sent meanwhile has all arrived before any of it is run."""
        go = self.notes / f"go-{self.requests}"
        waits = self.send("waits", {"for": go.name}, x=np.zeros(1, np.int64))
        yield
        before = self.inventories
        unknown = (SESSION, Counter(self.requests + 1))
        self.back.send_multipart([self.identity, encode(wire.Fetch((unknown,)))])  # is answered in turn
        while self.inventories == before:
            self.take()
        go.write_text("")
        self.result(waits)

    def joins(self, method: str, samples: int, share: int) -> None:
        """Has it learn that it is worth while to compute so many samples together, ``share`` of them on rank 0."""
        # With so much time for each batch, a few that a busy machine has made slow do not make them smaller.
        self.back.send_multipart([self.identity, encode(wire.Tune(objective_ms=600_000))])
        until, seen = time.monotonic() + PATIENCE_S, len(self.noted(method))
        while share not in self.noted(method)[seen:]:
            assert time.monotonic() < until, f"it does not join them: {self.noted(method)}"
            for size in (1, samples):
                self.call(method, x=np.ones(size, np.int64))
            seen = len(self.noted(method))
            with self.held():
                sent = [self.send(method, x=np.ones(1, np.int64)) for _ in range(samples)]
            for request in sent:
                self.result(request)

    def noted(self, method: str) -> list[int]:
        """How many samples rank 0 was called with, each time."""
        sizes = self.notes / f"sizes-{method}"
        return [int(line) for line in sizes.read_text().split()] if sizes.exists() else []

    def take_all(self) -> None:
        """Takes what has come."""
        while self.back.poll(0):
            self.take()

    def result(self, request: int) -> dict[str, Any]:
        """The outputs of a request.

        Raises:
            HpcserveError: It failed.
        """
        until = time.monotonic() + PATIENCE_S
        while request not in self.results and time.monotonic() < until:
            self.take()
        result, frames = self.results[request]
        if result.error is not None:
            raise error_from_wire(result.error)
        return unpack(result.tensors, list(result.enclosed) or frames)

    def call(self, method: str, parameters: Mapping[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
        """The outputs of one request."""
        return self.result(self.send(method, parameters, **inputs))

    def stream(self, method: str, parameters: Mapping[str, Any] | None = None, **inputs: Any) -> list[dict[str, Any]]:
        """The items of one stream."""
        request = self.send(method, parameters, window=wire.Window(1000, 1 << 20), **inputs)
        self.result(request)
        return self.items.get(request, [])

    def pids(self) -> list[int]:
        """Of the ranks whose setup has begun."""
        return [int(each.read_text()) for each in sorted(self.notes.glob("setup-*"))]

    def gone(self) -> None:
        """Waits until the group has ended by itself, with no rank left."""
        assert self.ended() != 0
        for pid in self.pids():
            gone(pid)

    def last_words(self) -> None:
        """Takes all that it has said, once it is gone."""
        self.gone()
        assert self.losses.poll(int(PATIENCE_S * 1000)), "its connection is still there"
        self.take_all()

    def ended(self) -> int:
        """Waits until all of it is gone; its exit code."""
        return self.process.wait(PATIENCE_S)

    def end(self) -> int:
        """Ends it in order, as its agent does."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.ended()

    def close(self) -> None:
        """Ends it at once."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.context.destroy(linger=0)


def place() -> Path:
    """A directory for a group that several tests share."""
    return Path(tempfile.mkdtemp())
