"""What it takes to run an agent by itself: a daemon's two CURVE sockets held by the test, and what it needs on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from hpcserve.cluster.processes import start_time
from hpcserve.errors import HpcserveError
from hpcserve.types import DeploymentName, Epoch, PilotId, ReplicaId
from hpcserve.wire import frames
from hpcserve.wire.agents import Orders, ReplicaSpec, ReplicaStatus, Report
from hpcserve.wire.launch import Enrolment, encode_enrolment
from hpcserve.wire.messages import Enrol, Enrolled, Refused, WhoAreYou
from hpcserve.wire.record import ServiceRecord, encode_record
from tests.integration.daemon_tree import PATIENCE_S, until

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "tests" / "fakes"


def gone(pid: int) -> None:
    until(lambda: start_time(pid) is None, f"process {pid} ends")


def text_of(log: Path) -> str:
    """What a log holds; nothing in the instant in which it is rotated."""
    try:
        return log.read_text()
    except FileNotFoundError:
        return ""


def record_at(admission: int, back: int, *, public_key: str, address: str = "127.0.0.1") -> bytes:
    """The service record of a daemon with these ports."""
    return encode_record(
        ServiceRecord(
            format=1,
            service="test",
            site="local",
            host="here",
            pid=os.getpid(),
            epoch=Epoch(1),
            public_key=public_key,
            admission=(f"tcp://{address}:{admission}",),
            front=(f"tcp://{address}:{back}",),
            back=(f"tcp://{address}:{back}",),
            software="test",
        )
    )


class FakeDaemon:
    """Admission and the broker's back side. Lets in by ZAP the keys that enrolled, and those only."""

    def __init__(self, record: Path, address: str = "127.0.0.1") -> None:
        self.record = record
        self.address = address
        self.refuse_with: HpcserveError | None = None
        self.enrols: list[Enrol] = []
        self.reports: list[Report] = []
        self.allowed: set[bytes] = set()
        self.denied = 0
        self.asking_key = b""
        public, self.secret = zmq.curve_keypair()
        self.public = public.decode()
        self.open()

    def open(self) -> None:
        self.context = zmq.Context()
        self.zap = self.context.socket(zmq.REP)
        self.zap.bind("inproc://zeromq.zap.01")
        self.admission, admission_port = self.bound(b"admission")
        self.back, back_port = self.bound(b"back")
        self.agent = b""
        self.record.write_bytes(record_at(admission_port, back_port, public_key=self.public, address=self.address))

    def bound(self, domain: bytes) -> tuple[zmq.Socket[bytes], int]:
        router = self.context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.zap_domain = domain
        router.curve_server = True
        router.curve_secretkey = self.secret
        return router, router.bind_to_random_port(f"tcp://{self.address}")

    def close(self) -> None:
        self.context.destroy(linger=0)

    def serve(self, condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
        """Answers whoever calls until the condition holds."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            for source in (self.zap, self.admission, self.back):
                if source.poll(2):
                    self.answer(source)
        last = self.reports[-1] if self.reports else None
        raise AssertionError(f"never happened: {what}; last report: {last}")

    def answer(self, source: zmq.Socket[bytes]) -> None:
        parts = source.recv_multipart()
        if source is self.zap:
            version, ticket, domain, _, _, _, key = parts
            let_in = domain == b"admission" or key in self.allowed
            self.denied += not let_in
            self.asking_key = key
            self.zap.send_multipart([version, ticket, b"200" if let_in else b"400", b"", b"", b""])
        elif source is self.admission:
            enrol = frames.decode_from_anyone(parts[1])
            assert isinstance(enrol, Enrol)
            self.enrols.append(enrol)
            error = self.refuse_with
            if error is None:
                self.allowed.add(self.asking_key)
            reply = Enrolled(1, "test 1") if error is None else Refused(frames.error_to_wire(error))
            self.admission.send_multipart([parts[0], frames.encode(reply)])
        else:
            self.agent = parts[0]
            report = frames.decode_from_pilot(parts[1])
            assert isinstance(report, Report)
            self.reports.append(report)

    def tell(self, message: Orders | WhoAreYou | Refused) -> None:
        self.back.send_multipart([self.agent, frames.encode(message)])

    def heard_since(self, reports: int) -> bool:
        return len(self.reports) > reports

    def status(self, replica: str) -> ReplicaStatus | None:
        last = self.reports[-1].replicas if self.reports else ()
        return next((status for status in last if status.replica == replica), None)

    def wait_for(self, replica: str, *states: str, within_s: float = PATIENCE_S) -> ReplicaStatus:
        def there() -> ReplicaStatus | None:
            status = self.status(replica)
            return status if status is not None and status.state in states else None

        found = self.serve(there, f"{replica} is {states}", within_s)
        assert isinstance(found, ReplicaStatus)
        return found


class Pilot:
    """One agent process under test, with what it needs on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs = root / "logs"
        self.enrolment_file = root / "enrolment.0.json"
        self.enrolment = Enrolment(
            pilot="pilot-1",
            incarnation="one",
            secret="sesame",
            slots=4,
            walltime_s=600.0,
            orphan_s=60.0,
            stop_grace_s=1.0,
            log_dir=str(self.logs),
            log_bytes=100_000,
        )
        for name, fake in (("venv", "fake_replica.py"), ("ranks", "fake_ranks.py")):
            python = root / name / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKES / fake} "$@"\n')
            python.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, mode: int = 0o600, **changes: Any) -> subprocess.Popen[bytes]:
        self.enrolment = msgspec.structs.replace(self.enrolment, **changes)
        self.enrol(0, mode)
        return self.run()

    def enrol(self, restarts: int, mode: int = 0o600) -> Path:
        """Lays the enrolment file of an incarnation down, as the controller does: whole or not at all."""
        path = self.root / f"enrolment.{restarts}.json"
        part = path.with_suffix(".part")
        part.write_bytes(encode_enrolment(self.enrolment))
        part.chmod(mode)
        part.rename(path)
        return path

    def run(self, *options: str, path: str = "", after: Path | None = None) -> subprocess.Popen[bytes]:
        """Runs the agent, or the script of a job that becomes it once there is a file."""
        script = ["/bin/sh", "-c", 'until [ -e "$0" ]; do sleep 0.05; done; exec "$@"', str(after)] if after else []
        agent = [sys.executable, "-m", "hpcserve.pilot", "--record", str(self.root / "service.json")]
        with (self.root / "agent.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*script, *agent, "--enrolment", str(self.root / "enrolment"), *options],
                env={
                    **os.environ,
                    "PATH": path + os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    "HPCSERVE_HOME": "/nowhere",
                    "PYTHONWARNINGS": "error",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def log(self) -> str:
        return (self.root / "agent.log").read_text()

    def spec(self, replica: str, what: str, setup_timeout_s: float = 60.0) -> ReplicaSpec:
        manifest = {
            "name": "fake",
            "loader": "python",
            "description": what,
            "environment": {"kind": "venv", "path": str(self.root / "venv")},
        }
        return ReplicaSpec(
            ReplicaId(replica),
            DeploymentName("fake"),
            "v1",
            str(self.root),
            json.dumps(manifest),
            setup_timeout_s,
            1000,
        )

    def group(self, replica: str, what: str, *, size: int, nodes: int = 1, gpus: int = 0) -> ReplicaSpec:
        """A replica of several ranks."""
        manifest = {
            "name": "fake",
            "loader": "python",
            "description": what,
            "environment": {"kind": "venv", "path": str(self.root / "ranks")},
            "ranks": {"size": size, "nodes": nodes, "gpus_per_rank": gpus, "grace_s": 7.5},
        }
        return msgspec.structs.replace(self.spec(replica, what), manifest=json.dumps(manifest))

    def ranks_of(self, replica: str, size: int) -> list[dict[str, Any]]:
        """What each rank has written of itself."""
        paths = [self.root / f"{replica}.rank.{rank}.json" for rank in range(size)]
        until(lambda: all(path.exists() for path in paths), f"all ranks of {replica} wrote what they were given")
        return [json.loads(path.read_text()) for path in paths]

    def now(self, replica: str) -> None:
        """Has the ranks of a replica do what they are there for, once it is ready."""
        (self.root / f"{replica}.now").touch()

    def orders(self, *specs: ReplicaSpec, **more: Any) -> Orders:
        return Orders(PilotId("pilot-1"), self.enrolment.incarnation, specs, **more)

    def facts(self, replica: str) -> dict[str, Any]:
        path = self.root / f"{replica}.json"
        until(path.exists, f"{replica} wrote what it was given")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for path in self.root.glob("*.json"):
            if path.stem.startswith("r"):
                gone(json.loads(path.read_text())["pid"])
