"""A real agent process, real replica processes, and a daemon's two CURVE sockets held by the test."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import zmq
from zmq.utils import z85

from hpcserve.cluster.processes import start_time
from hpcserve.errors import AuthenticationError, ServiceUnavailable, VersionMismatch
from hpcserve.pilot.link import FIRST_RETRY_S
from hpcserve.types import PilotId, ReplicaId
from hpcserve.wire import exits, frames
from hpcserve.wire.agents import Orders
from hpcserve.wire.messages import Refused, WhoAreYou
from tests.integration.agent_rig import FakeDaemon, Pilot, text_of
from tests.integration.daemon_tree import PATIENCE_S, until

SCRIPT_S = 2.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(tmp_path / "service.json")
    yield made
    made.close()


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[Pilot]:
    made = Pilot(tmp_path)
    yield made
    made.end()


@pytest.fixture
def connected(daemon: FakeDaemon, pilot: Pilot) -> FakeDaemon:
    pilot.start()
    daemon.serve(lambda: daemon.reports, "the agent reports")
    return daemon


def exit_code(daemon: FakeDaemon, pilot: Pilot) -> int:
    assert pilot.process is not None
    process = pilot.process
    daemon.serve(lambda: process.poll() is not None, "the agent ends")
    assert process.returncode is not None
    return process.returncode


def test_an_agent_enrols_once_and_reports_at_once(connected: FakeDaemon, pilot: Pilot) -> None:
    (enrol,) = connected.enrols
    assert (enrol.pilot, enrol.incarnation, enrol.secret) == ("pilot-1", "one", "sesame")
    first = connected.reports[0]
    assert (first.pilot, first.incarnation, first.slots, first.replicas) == ("pilot-1", "one", 4, ())
    assert 590 < first.walltime_left_s <= 600
    assert pilot.process is not None
    assert first.pid == pilot.process.pid
    assert pilot.enrolment_file.read_bytes() == b"", "used up"


def test_a_replica_is_started_and_gets_its_secret_by_stdin_alone(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "ready")))
    status = connected.wait_for("r1", "ready")
    facts = pilot.facts("r1")
    assert status.pid == facts["pid"]
    start = facts["start"]
    assert (start["replica"], start["deployment"], start["version"]) == ("r1", "fake", "v1")
    assert start["record"] == str(pilot.root / "service.json")
    secret = msgspec.convert(start["secret_key"], bytes)
    assert zmq.curve_public(z85.encode(secret)) == z85.encode(status.public_key)
    assert start["secret_key"] not in json.dumps([facts["argv"], facts["environment"]])
    assert facts["argv"][-5:] == ["hpcserve.replica", "--node-slots", "4", "--ranks", "0"]
    given = facts["environment"]
    assert [name for name in given if name.startswith("HPCSERVE_")] == []
    assert [name for name in ("PYTHONPATH", "PYTHONWARNINGS") if name in given] == []
    assert given["PYTHONUNBUFFERED"] == "1"
    assert os.getsid(status.pid or 0) == status.pid


def test_orders_are_a_level_not_an_edge(connected: FakeDaemon, pilot: Pilot) -> None:
    first, second = pilot.spec("r1", "ready"), pilot.spec("r2", "ready")
    connected.tell(pilot.orders(first))
    pid = connected.wait_for("r1", "ready").pid
    for _ in range(3):
        connected.tell(pilot.orders(first, second))
    connected.wait_for("r2", "ready")
    status = connected.status("r1")
    assert status is not None
    assert status.pid == pid
    connected.tell(pilot.orders(second))
    ended = connected.wait_for("r1", "exited")
    assert (ended.exit_code, ended.cause) == (0, "stopped as ordered (exit code 0)")
    connected.tell(pilot.orders(first, second))  # r1 ended: it is not started again
    connected.tell(pilot.orders(second, forget=(ReplicaId("r1"),)))
    connected.serve(lambda: connected.status("r1") is None, "r1 is forgotten")
    connected.tell(pilot.orders(first, second))  # an order that came late: it is still not started again
    assert connected.wait_for("r1", "exited").cause == "it ended earlier, and was forgotten"
    assert [status.state for status in connected.reports[-1].replicas] == ["ready", "exited"]


def test_a_report_comes_when_the_broker_asks_who_this_is(connected: FakeDaemon) -> None:
    seen = len(connected.reports)
    connected.tell(WhoAreYou())
    connected.serve(lambda: len(connected.reports) > seen, "a report because it was asked for")


def test_a_stubborn_replica_is_killed_after_its_grace_and_a_killed_one_at_once(
    daemon: FakeDaemon, pilot: Pilot
) -> None:
    pilot.start(stop_grace_s=0.3)
    daemon.serve(lambda: daemon.reports, "the agent reports")
    specs = [pilot.spec(name, "stubborn") for name in ("r1", "r2")]
    daemon.tell(pilot.orders(*specs))
    daemon.wait_for("r1", "ready")
    daemon.wait_for("r2", "ready")
    daemon.tell(pilot.orders(specs[0], kill=(ReplicaId("r2"),)))
    assert daemon.wait_for("r2", "exited").cause == "killed as ordered (killed by signal 9 (SIGKILL))"
    began = time.monotonic()
    daemon.tell(pilot.orders())
    assert daemon.wait_for("r1", "exited").exit_code == -9
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    ("what", "state", "exit_code", "cause", "traceback"),
    [
        ("fail", "failed", 1, "ValueError: no weights", "Traceback: no weights"),
        ("exit 3", "failed", 3, "exit code 3 before its setup was done", "to stderr"),
        ("crash 5", "exited", 5, "exit code 5", "to stderr"),
        ("hang", "failed", -9, "setup and warm-up did not finish within 4 s", "to stderr"),
    ],
)
def test_every_end_has_a_cause(
    daemon: FakeDaemon, pilot: Pilot, what: str, state: str, exit_code: int, cause: str, traceback: str
) -> None:
    pilot.start(stop_grace_s=0.1 if what == "hang" else 30.0)
    daemon.serve(lambda: daemon.reports, "the agent reports")
    daemon.tell(pilot.orders(pilot.spec("r1", what, setup_timeout_s=4.0 if what == "hang" else 60.0)))
    status = daemon.wait_for("r1", "failed", "exited")
    assert (status.state, status.pid) == (state, None)
    assert status.cause.startswith(cause)
    assert traceback in status.traceback
    assert (pilot.logs / "r1.log").read_text().endswith(f"[this replica has ended: {status.cause}]\n")
    assert "has ended" not in status.traceback
    assert (status.exit_code, status.kind) == (exit_code, "crashed")
    assert "to stderr" in status.evidence


def test_an_interpreter_that_is_not_there_is_a_failed_replica(connected: FakeDaemon, pilot: Pilot) -> None:
    (pilot.root / "venv" / "bin" / "python").unlink()
    connected.tell(pilot.orders(pilot.spec("r1", "ready")))
    assert "no Python at" in connected.wait_for("r1", "failed").cause
    connected.tell(pilot.orders(forget=(ReplicaId("r1"),)))
    connected.serve(lambda: connected.status("r1") is None, "r1 is forgotten")


def test_what_a_replica_leaves_behind_is_killed_with_it(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "parent")))
    connected.wait_for("r1", "ready")
    child = pilot.facts("r1")["child"]
    assert start_time(child) is not None
    connected.tell(pilot.orders(kill=(ReplicaId("r1"),)))
    connected.wait_for("r1", "exited")
    until(lambda: start_time(child) is None, "the replica's own child is gone")


def test_a_replica_that_prints_without_end_fills_no_disk_and_holds_nobody_up(
    connected: FakeDaemon, pilot: Pilot
) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "print 200")))
    connected.wait_for("r1", "ready")
    connected.tell(pilot.orders(pilot.spec("r1", "print 200"), pilot.spec("r2", "ready")))
    connected.wait_for("r2", "ready")
    log = pilot.logs / "r1.log"
    until(lambda: "printed everything" in text_of(log), "all of it was taken")
    assert log.stat().st_size + (pilot.logs / "r1.log.1").stat().st_size <= 100_000
    assert log.stat().st_mode & 0o077 == 0


def test_orders_for_another_incarnation_are_ignored(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(Orders(PilotId("pilot-1"), "two", (pilot.spec("r1", "ready"),)))
    connected.tell(pilot.orders(pilot.spec("r2", "ready")))
    connected.wait_for("r2", "ready")
    assert connected.status("r1") is None
    assert "orders for pilot-1 two ignored" in pilot.log()


@pytest.mark.parametrize("way", ["orders", "SIGTERM"])
def test_an_orderly_end_stops_every_replica_and_says_farewell(connected: FakeDaemon, pilot: Pilot, way: str) -> None:
    specs = [pilot.spec("r1", "ready"), pilot.spec("r2", "stubborn")]
    connected.tell(pilot.orders(*specs))
    pids = [connected.wait_for(spec.replica, "ready").pid for spec in specs]
    assert pilot.process is not None
    if way == "orders":
        connected.tell(pilot.orders(stop=True))
    else:
        pilot.process.send_signal(signal.SIGTERM)
    assert exit_code(connected, pilot) == 0
    connected.serve(lambda: connected.reports[-1].replicas[1].state == "exited", "the farewell")
    assert [start_time(pid or 0) for pid in pids] == [None, None]
    farewell = connected.reports[-1]
    outside = "the agent got SIGTERM: the job was ended from outside"
    assert farewell.leaving == ("the controller ended this pilot" if way == "orders" else outside)
    assert {status.state for status in farewell.replicas} == {"exited"}
    assert {status.kind for status in farewell.replicas} == {"" if way == "orders" else "cancelled"}


def test_the_walltime_is_kept_by_the_agent_itself(daemon: FakeDaemon, pilot: Pilot) -> None:
    pilot.start(walltime_s=14.0, stop_grace_s=4.0)
    daemon.serve(lambda: daemon.reports, "the agent reports")
    daemon.tell(pilot.orders(pilot.spec("r1", "ready")))
    daemon.wait_for("r1", "ready")
    began = time.monotonic()
    assert exit_code(daemon, pilot) == 0
    assert time.monotonic() - began < 14.0
    daemon.serve(lambda: "walltime of 14 s" in daemon.reports[-1].leaving, "the farewell names the walltime")
    assert "walltime of 14 s is used up" in daemon.reports[-1].replicas[0].cause
    assert daemon.reports[-1].replicas[0].kind == "walltime"


def test_replicas_do_not_outlive_a_killed_agent(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "stubborn")))
    pid = connected.wait_for("r1", "ready").pid or 0
    assert pilot.process is not None
    pilot.process.kill()
    until(lambda: start_time(pid) is None, "the replica saw the end of its standard input")


def test_a_twin_is_refused_and_runs_nothing(daemon: FakeDaemon, pilot: Pilot) -> None:
    daemon.refuse_with = AuthenticationError("pilot-1 one: a younger incarnation runs")
    pilot.start()
    assert exit_code(daemon, pilot) == exits.REFUSED
    assert "the daemon refuses this pilot: pilot-1 one: a younger incarnation runs" in pilot.log()
    assert daemon.reports == []


def test_a_refusal_that_may_pass_is_asked_again(daemon: FakeDaemon, pilot: Pilot) -> None:
    daemon.refuse_with = ServiceUnavailable("the controller is starting")
    pilot.start()
    daemon.serve(lambda: len(daemon.enrols) >= 2, "a second ENROL")
    daemon.refuse_with = None
    daemon.serve(lambda: daemon.reports, "the agent reports")
    assert pilot.enrolment_file.read_bytes() == b"", "used up"


def test_a_broker_that_refuses_is_not_asked_without_a_pause(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "ready")))
    pid = connected.wait_for("r1", "ready").pid
    refusals = 6
    began = time.monotonic()
    for _ in range(refusals):
        heard = len(connected.reports)
        connected.tell(Refused(frames.error_to_wire(AuthenticationError("this key is not admitted any more"))))
        connected.serve(partial(connected.heard_since, heard), "the agent reports again")
    constant_s = refusals * FIRST_RETRY_S
    assert time.monotonic() - began > 2 * constant_s, "the pause grows with each"
    assert len(connected.enrols) == 1 + refusals
    assert connected.wait_for("r1", "ready").pid == pid


def test_an_agent_whose_place_another_has_taken_ends(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "ready")))
    connected.wait_for("r1", "ready")
    connected.refuse_with = AuthenticationError("pilot-1: another incarnation has taken its place")
    connected.tell(Refused(frames.error_to_wire(AuthenticationError("this key is not admitted any more"))))
    assert exit_code(connected, pilot) == exits.REFUSED
    assert "the daemon refuses this pilot: pilot-1: another incarnation has taken its place" in pilot.log()


def test_a_daemon_that_comes_back_elsewhere_is_found_by_its_record(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "ready")))
    pid = connected.wait_for("r1", "ready").pid
    keys, connected.allowed = connected.allowed, set()  # as a new broker: it has been told of no key yet
    connected.close()
    connected.reports.clear()
    connected.open()
    connected.serve(lambda: connected.denied >= 2, "the agent is denied, and tries again")
    connected.allowed = keys
    connected.serve(lambda: connected.reports, "the agent reports again")
    assert len(connected.enrols) == 1
    status = connected.wait_for("r1", "ready")
    assert status.pid == pid


def test_an_orphan_keeps_its_replicas_for_its_time_then_ends_them(daemon: FakeDaemon, pilot: Pilot) -> None:
    process = pilot.start(orphan_s=1.5)
    daemon.serve(lambda: daemon.reports, "the agent reports")
    daemon.tell(pilot.orders(pilot.spec("r1", "ready")))
    pid = daemon.wait_for("r1", "ready").pid or 0
    daemon.record.unlink()
    daemon.close()
    began = time.monotonic()
    assert start_time(pid) is not None
    assert process.wait(PATIENCE_S) == exits.ORPHANED
    assert time.monotonic() - began > 1.0
    assert start_time(pid) is None
    assert "the daemon has been away for 1.5 s" in pilot.log()


def test_an_agent_waits_for_a_daemon_that_is_not_there_yet(tmp_path: Path, pilot: Pilot) -> None:
    pilot.start()
    until(lambda: "no connection to the daemon" in pilot.log(), "a failed attempt")
    daemon = FakeDaemon(tmp_path / "service.json")
    try:
        daemon.serve(lambda: daemon.reports, "the agent reports")
    finally:
        daemon.close()


def test_a_daemon_that_cannot_be_reached_is_told_once_with_its_address_and_why(
    daemon: FakeDaemon, pilot: Pilot
) -> None:
    daemon.close()
    record = json.loads(daemon.record.read_bytes())
    pilot.start()
    told = f"does not reach the daemon on here at {record['admission'][0]}, its address in {daemon.record}: refused: "
    until(lambda: told in pilot.log(), "the agent says why")
    assert "to look closer: hpcserve doctor --pilot" in pilot.log()
    until(lambda: pilot.log().count("no connection to the daemon") > 4, "further attempts")
    assert pilot.log().count("does not reach") == 1
    daemon.open()
    daemon.serve(lambda: daemon.reports, "the agent reports")


def test_a_wrong_service_key_is_not_spoken_to(daemon: FakeDaemon, pilot: Pilot) -> None:
    record = json.loads(daemon.record.read_bytes())
    record["public_key"] = zmq.curve_keypair()[0].decode()
    daemon.record.write_text(json.dumps(record))
    process = pilot.start(orphan_s=1.0)
    daemon.serve(lambda: process.poll() is not None, "the agent gives up")
    assert process.returncode == exits.ORPHANED
    assert daemon.enrols == []


def test_an_enrolment_that_others_can_read_is_refused(pilot: Pilot) -> None:
    process = pilot.start(mode=0o644)
    assert process.wait(PATIENCE_S) == 1
    assert "mode 0644 lets others read this pilot's secret" in pilot.log()


def test_noise_from_the_daemon_changes_nothing(connected: FakeDaemon, pilot: Pilot) -> None:
    dice = random.Random(7)
    for size in (0, 1, 5, 100, 10_000):
        connected.back.send_multipart([connected.agent, dice.randbytes(size)])
    connected.tell(pilot.orders(pilot.spec("r1", "ready")))
    connected.wait_for("r1", "ready")
    assert pilot.log().count("the daemon sent something else than orders") == 5


def test_lines_on_standard_output_that_are_no_report_go_to_the_log(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "noise")))
    connected.wait_for("r1", "ready")
    log = pilot.logs / "r1.log"
    until(lambda: "half a line" in text_of(log), "all of it is in the log")
    assert 'no report\n{"state": "perhaps"}\nready?\n' in text_of(log)
    assert '"ready"' not in text_of(log)


def test_a_version_that_nobody_shares_has_an_exit_code_of_its_own(daemon: FakeDaemon, pilot: Pilot) -> None:
    daemon.refuse_with = VersionMismatch("no common wire version: upgrade hpcserve 0.0")
    pilot.start()
    assert exit_code(daemon, pilot) == exits.VERSION_MISMATCH
    assert "upgrade hpcserve 0.0" in pilot.log()


def test_a_later_incarnation_waits_for_its_own_enrolment(daemon: FakeDaemon, pilot: Pilot) -> None:
    pilot.enrol(0)
    pilot.run("--restart", "2")
    until(lambda: "waiting up to 600 s for" in pilot.log(), "it says that it waits")
    assert daemon.enrols == []
    pilot.enrolment = msgspec.structs.replace(pilot.enrolment, incarnation="three", secret="open")
    later = pilot.enrol(2)
    daemon.serve(lambda: daemon.reports, "the agent reports")
    assert (daemon.enrols[0].incarnation, daemon.enrols[0].secret) == ("three", "open")
    assert later.read_bytes() == b"", "used up"
    assert pilot.enrolment_file.read_bytes() != b""


def test_a_second_run_of_an_incarnation_ends_at_once(connected: FakeDaemon, pilot: Pilot) -> None:
    first, second = pilot.process, pilot.run()
    code, pilot.process = second.wait(PATIENCE_S), first
    assert code == exits.REFUSED
    assert "enrolment.0.json is used up: another run of this pilot was enrolled by it" in pilot.log()
    assert len(connected.enrols) == 1


def test_an_enrolment_that_cannot_be_emptied_ends_nothing(daemon: FakeDaemon, pilot: Pilot) -> None:
    daemon.refuse_with = ServiceUnavailable("not yet", retry_after_s=0.1)
    pilot.start()
    daemon.serve(lambda: daemon.enrols, "it has read its enrolment")
    pilot.enrolment_file.unlink()
    pilot.enrolment_file.mkdir()
    daemon.refuse_with = None
    daemon.serve(lambda: daemon.reports, "the agent reports")
    assert "the enrolment file stays as it is: [Errno" in pilot.log()


def test_an_enrolment_that_never_comes_has_an_exit_code_of_its_own(pilot: Pilot) -> None:
    process = pilot.run("--wait-s", "0.3")
    assert process.wait(PATIENCE_S) == exits.NO_ENROLMENT
    assert "enrolment.0.json did not come within 0.3 s" in pilot.log()


def test_an_agent_that_waits_for_its_enrolment_ends_when_asked(pilot: Pilot) -> None:
    process = pilot.run()
    until(lambda: "waiting up to" in pilot.log(), "it waits")
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == exits.OK
    assert "ended by SIGTERM before it was enrolled" in pilot.log()


def test_what_the_job_script_took_is_walltime_too(daemon: FakeDaemon, pilot: Pilot) -> None:
    pilot.enrol(0)
    go, began_s = pilot.root / "go", time.monotonic()
    pilot.run(after=go)
    until(lambda: time.monotonic() >= began_s + SCRIPT_S, "the job script takes its time")
    go.touch()
    daemon.serve(lambda: daemon.reports, "the agent reports")
    assert daemon.reports[-1].walltime_left_s <= pilot.enrolment.walltime_s - SCRIPT_S


def test_the_scheduler_s_warning_brings_the_end_nearer(daemon: FakeDaemon, pilot: Pilot) -> None:
    pilot.enrol(0)
    process = pilot.run("--warn-s", "30")
    daemon.serve(lambda: daemon.reports, "the agent reports")
    assert 400 < daemon.reports[-1].walltime_left_s <= 600
    process.send_signal(signal.SIGUSR1)
    daemon.serve(lambda: daemon.reports[-1].walltime_left_s <= 30, "a report with what is left")
    assert daemon.reports[-1].leaving == ""
    process.send_signal(signal.SIGTERM)
    assert exit_code(daemon, pilot) == exits.OK
    daemon.serve(lambda: "near the end of the pilot's walltime" in daemon.reports[-1].leaving, "the farewell")


def test_where_no_scheduler_warns_the_agent_does_so_itself(daemon: FakeDaemon, pilot: Pilot) -> None:
    pilot.enrol(0)
    pilot.run("--warn-s", "30", "--walltime-s", "33")
    daemon.serve(lambda: daemon.reports, "the agent reports")
    assert daemon.reports[0].walltime_left_s > 400, "what its enrolment says"
    daemon.serve(lambda: daemon.reports[-1].walltime_left_s <= 30, "a report with what is left")
    assert "warned of the job's end" in pilot.log()
    assert daemon.reports[-1].leaving == ""


def test_a_sigterm_to_everybody_is_no_crash_of_the_replicas(connected: FakeDaemon, pilot: Pilot) -> None:
    connected.tell(pilot.orders(pilot.spec("r1", "ready")))
    pid = connected.wait_for("r1", "ready").pid or 0
    assert pilot.process is not None
    os.kill(pid, signal.SIGTERM)
    until(lambda: start_time(pid) is None, "the replica has ended first")
    pilot.process.send_signal(signal.SIGTERM)
    assert exit_code(connected, pilot) == exits.OK
    status = connected.wait_for("r1", "exited")
    assert (status.kind, status.exit_code) == ("cancelled", 0)
