"""The real supervisor in a process of its own. Its children are stand-ins that do as a test tells them."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from hpcserve.auth.authorized import AuthorizedKeys
from hpcserve.auth.keys import load
from hpcserve.cluster.processes import is_stopped
from hpcserve.core.lease import Lease
from hpcserve.daemon import farewell, leftovers
from hpcserve.wire.frames import decode_from_admission, decode_to_client, encode
from hpcserve.wire.messages import Hello, Resume, Resumed, Welcome
from hpcserve.wire.record import ServiceRecord, decode_record
from tests.integration.daemon_tree import PATIENCE_S, until

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests" / "fakes" / "daemon_driver.py"
NAMES = ("broker", "controller", "admission")


class House:
    """A place for one daemon, and what can be done to it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.control = place / "control"
        self.control.mkdir()
        self.state, self.shared, self.home = place / "state", place / "shared", place / "home"
        self.site = place / "here.toml"
        self.configure("")
        self.processes: list[subprocess.Popen[bytes]] = []

    def configure(self, more: str) -> None:
        self.site.write_text(f'state_dir = "{self.state}"\nshared_dir = "{self.shared}"\n{more}')

    def does(self, name: str, what: str) -> None:
        (self.control / f"{name}.does").write_text(what)

    def start(
        self, *options: str, fds: tuple[int, ...] = (), real: bool = False, **more: Any
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Starts a daemon, with real children or with stand-ins; returns it and the descriptor of its report."""
        ready, told = os.pipe()
        command = ["-m", "hpcserve.daemon", "--site"] if real else [str(DRIVER), str(self.control)]
        process = subprocess.Popen(
            [sys.executable, *command, str(self.site), "--ready-fd", str(told), *options],
            env=os.environ | {"HPCSERVE_HOME": str(self.home)},
            pass_fds=(told, *fds),
            stderr=subprocess.DEVNULL,
            **more,
        )
        os.close(told)
        self.processes.append(process)
        return process, ready

    def up(self, *options: str, **more: Any) -> subprocess.Popen[bytes]:
        process, ready = self.start(*options, **more)
        said = told_by(ready)
        assert said["error"] is None, said
        return process

    def refused(self, **more: Any) -> dict[str, Any]:
        """Starts a daemon that must fail; returns its error."""
        process, ready = self.start(**more)
        error: dict[str, Any] = told_by(ready)["error"]
        assert process.wait(PATIENCE_S) == 1
        return error

    def record(self) -> ServiceRecord:
        return decode_record((self.shared / "service.json").read_bytes(), "RECORD")

    def starts(self, name: str) -> list[dict[str, Any]]:
        file = self.control / f"{name}.starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def events(self) -> list[str]:
        file = self.control / "events"
        return file.read_text().splitlines() if file.exists() else []

    def lease(self) -> Lease:
        return msgspec.json.decode(max(self.shared.glob("lease-*.json")).read_bytes(), type=Lease)

    def left(self) -> list[str]:
        """The processes of this house that still run: those with its home in their environment."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"HPCSERVE_HOME={self.home}".encode() in (entry / "environ").read_bytes():
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()!r}")
            except OSError:
                continue  # it has ended, or is somebody else's
        return found

    def nobody_left(self) -> None:
        until(lambda: not self.left(), lambda: f"all processes have ended; left: {self.left()}")


def told_by(ready: int) -> dict[str, Any]:
    with os.fdopen(ready) as lines:
        line = lines.readline()
    assert line, "the daemon ended without a report"
    said: dict[str, Any] = json.loads(line)
    return said


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
    made.nobody_left()


def test_a_first_start_makes_everything_it_needs(house: House) -> None:
    daemon = house.up()
    record = house.record()
    assert (record.pid, record.site, record.host) == (daemon.pid, "here", socket.gethostname())
    service = load(house.state / "keys" / "service.key")
    assert record.public_key == service.public_z85
    for address in (*record.front, *record.back, *record.admission):
        host, port = address.removeprefix("tcp://").split(":")
        socket.create_connection((host, int(port))).close()
    client = load(house.home / "client.key")
    assert AuthorizedKeys(house.state / "authorized_keys").lookup(client.public)
    for name in NAMES:
        (start,) = house.starts(name)
        assert start["sid"] == start["pid"], "a terminal's signals do not reach it"
        assert start["epoch"] == record.epoch == (1 << 20) + 1
        assert (house.shared / "logs" / f"daemon-{name}.log").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_goes_down_in_order(house: House, number: signal.Signals) -> None:
    daemon = house.up()
    daemon.send_signal(number)
    assert daemon.wait(PATIENCE_S) == 0
    events = house.events()
    assert events[0] == "controller SIGTERM"
    assert sorted(events[1:]) == ["admission SIGTERM", "broker SIGTERM"]
    assert not (house.shared / "service.json").exists()
    assert house.lease().released
    house.nobody_left()
    house.up()
    assert house.record().epoch == (2 << 20) + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_child_that_is_killed_comes_back_at_its_address(house: House, name: str) -> None:
    house.up()
    before = house.record()
    os.kill(house.starts(name)[0]["pid"], signal.SIGKILL)
    until(lambda: len(house.starts(name)) == 2, "a restart")
    if name == "broker":
        until(lambda: house.record().epoch == before.epoch + 1, "a new epoch in the record")
    after = house.record()
    assert (after.front, after.back, after.admission) == (before.front, before.back, before.admission)
    assert all(len(house.starts(other)) == 1 for other in NAMES if other != name), "the others go on"
    assert house.starts("broker")[-1]["epoch"] == after.epoch


def test_a_port_that_was_lost_meanwhile_is_replaced(house: House) -> None:
    house.up()
    before = house.record()
    host, port = before.admission[0].removeprefix("tcp://").split(":")
    house.does("admission", "crash")
    os.kill(house.starts("admission")[0]["pid"], signal.SIGKILL)
    until(lambda: len(house.starts("admission")) > 1, "a restart")
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind((host, int(port)))
        thief.listen()
        house.does("admission", "")
        until(lambda: house.record().admission != before.admission, "another address in the record")
    assert house.record().front == before.front


def test_a_configured_port_in_use_is_said_and_nothing_stays(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        house.configure(f"[network]\nback_port = {port}\n")
        error = house.refused()
    assert error["code"] == "conflict"
    assert f"port {port} of 127.0.0.1 is in use" in error["message"]
    assert "back_port" in error["message"]
    assert not (house.shared / "service.json").exists()
    house.nobody_left()
    house.up()
    assert house.record().back == (f"tcp://127.0.0.1:{port}",)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("does", "message"), [("refuse", "this cannot be"), ("crash", "exit code 7: lab.toml: not TOML; see ")]
)
def test_a_child_that_cannot_start_fails_the_first_start(house: House, name: str, does: str, message: str) -> None:
    house.does(name, does)
    error = house.refused()
    assert message in error["message"]
    house.nobody_left()
    assert house.lease().released


def test_a_child_that_is_never_ready_fails_the_first_start(house: House) -> None:
    house.does("broker", "mute")
    assert "broker" in house.refused()["message"]
    house.nobody_left()


def test_a_child_that_ends_again_and_again_takes_the_daemon_down(house: House) -> None:
    daemon = house.up()
    house.does("admission", "crash")
    os.kill(house.starts("admission")[0]["pid"], signal.SIGKILL)
    assert daemon.wait(PATIENCE_S) == 1
    assert len(house.starts("admission")) == 5
    assert "controller SIGTERM" in house.events(), "its pilots are ended all the same"
    log = (house.shared / "logs" / "daemon-supervisor.log").read_text()
    assert "the daemon's admission does not run: it ended 5 times" in log
    assert "admission has ended: exit code 7: lab.toml: not TOML\n" in log


def test_a_controller_that_ends_by_itself_asks_to_go_down(house: House) -> None:
    daemon = house.up()
    os.kill(house.starts("controller")[0]["pid"], signal.SIGTERM)  # the stand-in's way to exit code 0
    assert daemon.wait(PATIENCE_S) == 0
    assert not (house.shared / "service.json").exists()
    assert sorted(house.events()) == ["admission SIGTERM", "broker SIGTERM", "controller SIGTERM"]


@pytest.mark.parametrize("name", NAMES)
def test_a_child_that_does_not_end_is_killed(house: House, name: str) -> None:
    house.does(name, "deaf")
    daemon = house.up()
    daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0
    assert house.lease().released
    house.nobody_left()


def test_a_crashed_controller_is_started_to_end_its_pilots(house: House) -> None:
    daemon = house.up()
    house.does("controller", "crash")
    os.kill(house.starts("controller")[0]["pid"], signal.SIGKILL)
    until(lambda: len(house.starts("controller")) >= 2, "a restart")
    house.does("controller", "")
    daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0
    assert house.events()[0] == "controller SIGTERM"


def test_a_warning_waits_for_a_controller_that_is_ready(house: House) -> None:
    house.does("controller", "late")
    daemon, ready = house.start()
    until(lambda: house.starts("controller"), "it starts")
    before = switches(daemon)
    daemon.send_signal(signal.SIGUSR1)
    until(lambda: switches(daemon) > before, "the supervisor has heard it, and waits again")
    (house.control / "controller.go").touch()
    assert told_by(ready)["error"] is None
    until(lambda: house.events() == ["controller SIGUSR1"], "it is warned")
    assert len(house.starts("controller")) == 1, "the signal has not killed it"


def test_where_no_scheduler_warns_the_supervisor_does_so_itself(house: House) -> None:
    house.up("--warn-in-s", "0.5")
    until(lambda: house.events() == ["controller SIGUSR1"], "it is warned")


def test_each_controller_is_warned_once(house: House) -> None:
    daemon = house.up()
    daemon.send_signal(signal.SIGUSR1)
    until(lambda: house.events() == ["controller SIGUSR1"], "it is warned")
    daemon.send_signal(signal.SIGUSR1)
    os.kill(house.starts("admission")[0]["pid"], signal.SIGKILL)
    until(lambda: len(house.starts("admission")) == 2, "a restart")
    assert house.events() == ["controller SIGUSR1"]
    os.kill(house.starts("controller")[0]["pid"], signal.SIGKILL)
    until(lambda: house.events() == 2 * ["controller SIGUSR1"], "the next one is, too: it may have to submit the job")


def test_a_tied_daemon_goes_down_with_its_starter(house: House) -> None:
    daemon = house.up("--tied", stdin=subprocess.PIPE)
    assert daemon.stdin is not None
    daemon.stdin.close()
    assert daemon.wait(PATIENCE_S) == 0
    assert "controller SIGTERM" in house.events()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_detached_daemon_stays_once_its_starter_knows_of_it(house: House, *, is_kept: bool) -> None:
    detach, keep = os.pipe()
    daemon = house.up("--detach-fd", str(detach), fds=(detach,))
    os.close(detach)
    if is_kept:
        os.write(keep, b"k")
    os.close(keep)
    if not is_kept:
        assert daemon.wait(PATIENCE_S) == 0
        return
    os.kill(house.starts("admission")[0]["pid"], signal.SIGKILL)
    until(lambda: len(house.starts("admission")) == 2, "it still does its work")
    assert daemon.poll() is None


def test_a_starter_that_dies_early_leaves_no_daemon(house: House) -> None:
    detach, keep = os.pipe()
    daemon, ready = house.start("--detach-fd", str(detach), fds=(detach,))
    os.close(detach)
    os.close(keep)
    os.close(ready)
    assert daemon.wait(PATIENCE_S) == 0
    house.nobody_left()


def test_no_child_outlives_a_supervisor_that_was_killed(house: House) -> None:
    daemon = house.up()
    daemon.kill()
    daemon.wait()
    house.nobody_left()
    assert sorted(house.events()) == ["admission orphaned", "broker orphaned", "controller orphaned"]
    house.up()
    assert house.record().epoch == (2 << 20) + 1, "the lease of a dead process is taken at once"


def test_a_second_daemon_is_told_of_the_first(house: House) -> None:
    daemon = house.up()
    log = house.shared / "logs" / "daemon-supervisor.log"
    before = log.read_text()
    record = house.record()
    error = house.refused()
    assert error["code"] == "conflict"
    assert f"as pid {daemon.pid} (since" in error["message"]
    assert "`hpcserve down`" in error["message"]
    assert house.record() == record
    assert daemon.poll() is None
    assert log.read_text() == before, "the log is the first one's"


def test_a_daemon_that_lost_its_lease_kills_everything_and_leaves_the_rest_to_its_successor(house: House) -> None:
    house.configure("[recovery]\nlease_s = 0.6\n")
    daemon = house.up()
    record = house.record()
    other = msgspec.structs.replace(house.lease(), host="elsewhere", boot="other", pid=42)
    (house.shared / "lease-00000002.json").write_bytes(msgspec.json.encode(other))
    assert daemon.wait(PATIENCE_S) == 3, (house.shared / "logs" / "daemon-supervisor.log").read_text()
    assert house.events() == [], "nobody was asked: the pilots are the successor's"
    assert house.record() == record
    assert house.lease() == other
    assert "taken by a daemon on elsewhere as pid 42" in (house.shared / "logs" / "daemon-supervisor.log").read_text()


def test_a_state_directory_that_others_may_enter_is_refused(house: House) -> None:
    house.state.mkdir(mode=0o755)
    error = house.refused()
    assert error["code"] == "config"
    assert f"chmod 700 '{house.state}'" in error["message"]


def test_a_full_disk_is_said_and_leaves_no_part_of_a_key(house: House) -> None:
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1, 1))
    error = house.refused(preexec_fn=limit)
    assert error["code"] == "storage_full"
    assert "make room" in error["message"]
    assert list((house.state / "keys").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_of_the_start_leaves_nothing(house: House, number: signal.Signals) -> None:
    house.up().kill()
    house.processes[0].wait()
    began = time.monotonic()
    house.up().kill()
    start_s = time.monotonic() - began
    for step in range(7):
        daemon, ready = house.start()
        time.sleep(start_s * step / 6)  # the moment is the case
        daemon.send_signal(number)
        code = daemon.wait(PATIENCE_S)
        os.close(ready)
        house.nobody_left()
        assert code in {0, -number, 1}, "down, ended by the signal before there was a handler, or by KeyboardInterrupt"
        assert not (house.shared / "service.json").exists() or house.record().pid != daemon.pid


def test_the_real_daemon_lets_its_user_in(house: House) -> None:
    daemon = house.up(real=True)
    for _ in range(2):
        assert isinstance(exchange(house, "admission", Hello((1,), "test"), decode_from_admission), Welcome)
        resumed = exchange(house, "front", Resume(1, bytes(16)), decode_to_client)
        assert isinstance(resumed, Resumed)
        assert resumed.epoch == house.record().epoch
        broker = child_of(daemon.pid, "hpcserve.daemon.broker")
        os.kill(broker, signal.SIGKILL)
        until(lambda: house.record().epoch == resumed.epoch + 1, "a new broker")  # noqa: B023 (awaited here)
    daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0
    house.nobody_left()


def exchange(house: House, where: str, message: object, decode: Callable[[bytes], Any]) -> Any:
    """Says something as the user of the house; returns the answer."""
    keys, record = load(house.home / "client.key"), house.record()
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.curve_publickey, client.curve_secretkey = keys.public, keys.secret
        client.curve_serverkey = record.public_key.encode()
        client.connect(getattr(record, where)[0])
        client.send(encode(message))
        assert client.poll(10_000), f"no answer from {where}"
        return decode(client.recv())


def child_of(parent: int, module: str) -> int:
    for entry in Path("/proc").iterdir():
        try:
            command, status = (entry / "cmdline").read_bytes(), (entry / "status").read_text()
        except OSError:
            continue
        if module.encode() in command and f"\nPPid:\t{parent}\n" in status:
            return int(entry.name)
    raise AssertionError(f"{parent} has no child {module}")


def test_no_process_of_the_daemon_leaves_a_core_file(house: House) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    daemon = house.up(real=True, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_CORE, (most, most)))
    modules = [f"hpcserve.daemon.{name}" for name in NAMES]
    for process in (daemon.pid, *(child_of(daemon.pid, module) for module in modules)):
        soft, _ = resource.prlimit(process, resource.RLIMIT_CORE)
        assert soft == 0


def test_it_hardly_wakes_up_when_nothing_happens(house: House) -> None:
    daemon = house.up()

    before = switches(daemon)
    time.sleep(3)  # the time is what is measured
    assert switches(daemon) - before <= 3


def switches(process: subprocess.Popen[bytes]) -> int:
    """How often it has gone to sleep."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_a_controller_that_stands_still_is_replaced_by_one_that_ends_the_pilots(house: House) -> None:
    house.does("controller", "deaf")
    daemon = house.up()
    house.does("controller", "")
    daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0
    assert len(house.starts("controller")) == 2
    assert house.events()[0] == "controller SIGTERM"
    assert leftovers.read(house.shared) == ()


def test_pilots_that_no_controller_could_end_are_left_with_a_word(house: House) -> None:
    house.does("controller", "deaf")
    daemon = house.up()
    daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0
    assert leftovers.read(house.shared) == (leftovers.LeftBehind(leftovers.SOME, "", leftovers.NOT_SEEN_TO),)


def test_nobody_is_told_of_pilots_that_were_to_go_on(house: House) -> None:
    house.does("controller", "deaf")
    daemon = house.up()
    farewell.write(house.state, "keep")
    daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0
    assert leftovers.read(house.shared) == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_child_that_was_stopped_goes_on_after_a_while(house: House, name: str) -> None:
    house.configure("[recovery]\nlease_s = 1.5\n")
    house.up()
    pid = house.starts(name)[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid), "it stands still")
    until(lambda: not is_stopped(pid), "it goes on")
    assert len(house.starts(name)) == 1


def test_a_controller_that_was_stopped_ends_the_pilots_all_the_same(house: House) -> None:
    daemon = house.up()
    pid = house.starts("controller")[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid), "it stands still")
    daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0
    assert len(house.starts("controller")) == 1
    assert house.events()[0] == "controller SIGTERM"
