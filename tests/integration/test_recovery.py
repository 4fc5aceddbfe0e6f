"""Each process is killed with a thousand requests in flight: every one is answered, and the runs are counted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.client.outputs import Outputs
from hpcserve.errors import OutcomeUnknown
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, is_alive, status, until

REPLICAS = 2
CLIENTS = 4
EACH = 250
SLEEP_S = 0.002


@pytest.fixture(scope="module")
def clients(daemon: Daemon) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(daemon.client(timeout_s=100)) for _ in range(CLIENTS)]
        daemon.deploy(made[0], SERVABLES / "tally", replicas=REPLICAS)
        daemon.replica_pids(made[0], "tally", at_least=REPLICAS)
        yield made


# A client that is away for longer than this has given up what it waited for, and what it asks for again runs again:
# on a busy machine a start of the daemon takes seconds.
OVERRIDES = {"recovery": {"session_linger_s": 20.0}}


class Run:
    """A thousand requests from several clients, and what their servable wrote down of them."""

    def __init__(self, clients: list[Client], log: Path, method: str = "again") -> None:
        self.log = log
        self.answered = 0
        self.futures: dict[str, Future[Outputs]] = {}
        for number, client in enumerate(clients):
            for n in range(EACH):
                parameters = {"log": str(log), "tag": f"{number}/", "sleep_s": SLEEP_S}
                future = client.submit(f"tally.{method}", np.int64(n), parameters=parameters)
                future.add_done_callback(self._count)
                self.futures[f"{number}/{n}"] = future

    def _count(self, future: Future[Outputs]) -> None:
        self.answered += 1

    def wait_for(self, answered: int) -> None:
        until(lambda: self.answered >= answered, f"{answered} answers are there")

    def errors(self) -> dict[str, BaseException]:
        """The requests that failed. All others have the right answer."""
        failed = {}
        for name, future in self.futures.items():
            error = future.exception(100)
            if error is not None:
                failed[name] = error
            else:
                assert future.result()["n"] == int(name.partition("/")[2])
        assert self.answered == len(self.futures), "each was answered once"
        return failed

    def runs(self) -> Counter[str]:
        """How often each request ran."""
        return Counter(line.split()[0] for line in self.log.read_text().splitlines())


@pytest.fixture
def settled(clients: list[Client]) -> Iterator[None]:
    """Afterwards nothing is held any more: neither in the broker nor in an outbox."""
    yield
    until(lambda: status(clients[0]).held_bytes == 0, "the broker holds nothing", within_s=60)


def once_each(run: Run, errors: tuple[type[BaseException], ...] = ()) -> None:
    """Each was answered and has run once. ``errors`` are answers too: such a request has not run, or once."""
    failed = run.errors()
    assert not [error for error in failed.values() if type(error) not in errors][:1]
    runs = run.runs()
    assert max(runs.values()) == 1
    assert set(run.futures) - set(failed) <= set(runs)


# --- processes of the daemon ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("method", ["again", "once"])
@pytest.mark.parametrize("process", ["broker", "controller", "admission"])
def test_without_a_process_of_the_daemon_nothing_is_lost_or_run_twice(
    clients: list[Client], daemon: Daemon, tmp_path: Path, process: str, method: str
) -> None:
    run = Run(clients, tmp_path / "log", method)
    run.wait_for(100)
    replicas = daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)
    killed = daemon.kill(process)
    # A new broker cannot know whether what nobody holds has run, at a replica that has died since.
    once_each(run, errors=(OutcomeUnknown,) if (process, method) == ("broker", "once") else ())
    until(lambda: daemon.pid_of(process) != killed, "it runs again")
    assert daemon.replica_pids(clients[0], "tally", at_least=REPLICAS) == replicas


@pytest.mark.usefixtures("settled")
def test_the_broker_may_die_again_and_again(clients: list[Client], daemon: Daemon, tmp_path: Path) -> None:
    run = Run(clients, tmp_path / "log")
    for answered in (100, 300, 500):
        run.wait_for(answered)
        daemon.kill("broker")
    once_each(run)


@pytest.mark.usefixtures("settled")
def test_broker_controller_and_admission_may_die_together(
    clients: list[Client], daemon: Daemon, tmp_path: Path
) -> None:
    run = Run(clients, tmp_path / "log")
    run.wait_for(100)
    replicas = daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)
    for process in ("broker", "controller", "admission"):
        os.kill(daemon.pid_of(process), signal.SIGKILL)
    once_each(run)
    assert daemon.replica_pids(clients[0], "tally", at_least=REPLICAS) == replicas


def test_results_that_wait_in_outboxes_survive_the_broker(new_daemon: NewDaemon, tmp_path: Path) -> None:
    """The client is stopped, so that nothing is acknowledged; the broker dies twice; then it gets what it waits for."""
    # A daemon of its own: where the broker has died before it comes back late, at last after the pilots have gone.
    daemon = new_daemon(**OVERRIDES).up()
    log = tmp_path / "log"
    with daemon.client() as client:
        daemon.deploy(client, SERVABLES / "tally", replicas=REPLICAS)
        replicas = daemon.replica_pids(client, "tally", at_least=REPLICAS)
        with stopped_client(daemon, log, tmp_path / "answers", 200) as resume:
            until(lambda: log.exists() and len(log.read_text().splitlines()) >= 200, "all of them have run")
            daemon.kill("broker")
            until(lambda: not status(client).recovering, "the new broker has heard the replicas")
            daemon.kill("broker")
            answers = resume()
        assert answers == [str(n) for n in range(200)]
        assert daemon.replica_pids(client, "tally", at_least=REPLICAS) == replicas
        assert set(Counter(line.split()[0] for line in log.read_text().splitlines()).values()) == {1}
        until(lambda: status(client).held_bytes == 0, "the broker holds nothing")


SENDER = """
import sys
import numpy as np
from hpcserve import Client
from hpcserve.wire import admin
log, answers, count, sleep_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
with Client(timeout_s=100) as client:
    parameters = {"log": log, "sleep_s": sleep_s}
    futures = [client.submit("tally.again", np.int64(n), parameters=parameters) for n in range(count)]
    client.call("status", admin.AskStatus(), admin.Status)  # its answer comes after all of them have arrived
    print("sent", flush=True)
    sys.stdin.readline()
    with open(answers, "w") as file:
        file.writelines(f"{int(each.result()['n'])}\\n" for each in futures)
"""


@contextlib.contextmanager
def stopped_client(daemon: Daemon, log: Path, answers: Path, count: int) -> Iterator[Any]:
    """A client in a process of its own that sent its requests and was stopped (SIGSTOP)."""
    process = subprocess.Popen(
        [sys.executable, "-c", SENDER, str(log), str(answers), str(count), str(SLEEP_S)],
        env=os.environ | daemon.variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "sent\n"
        os.kill(process.pid, signal.SIGSTOP)

        def resume() -> list[str]:
            os.kill(process.pid, signal.SIGCONT)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.close()
            assert process.wait(60) == 0
            return answers.read_text().splitlines()

        yield resume
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_killed_client_leaves_nothing_behind(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon().up()
    with daemon.client() as client:
        daemon.deploy(client, SERVABLES / "tally")
        daemon.replica_pids(client, "tally")
        with stopped_client(daemon, tmp_path / "log", tmp_path / "answers", 500):
            until(lambda: status(client).sessions == 2, "its session is there")
        until(lambda: status(client).sessions == 1, "its session is noticed to be gone")
        until(lambda: status(client).held_bytes == 0, "all that it left is given up")


# --- replicas and agents ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
def test_a_killed_replica_is_replaced_and_its_requests_run_again(
    clients: list[Client], daemon: Daemon, tmp_path: Path
) -> None:
    run = Run(clients, tmp_path / "log")
    run.wait_for(100)
    victim, other = daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)[:2]
    os.kill(victim, signal.SIGKILL)
    assert run.errors() == {}
    runs = run.runs()
    assert set(runs) == set(run.futures)
    assert max(runs.values()) <= 2
    # What it had taken and not answered is at most what it had asked for; the rest has run once.
    assert sum(count == 2 for count in runs.values()) < len(runs) / 2
    assert other in until(
        lambda: daemon.replica_pids(clients[0], "tally", at_least=REPLICAS), "there are two replicas again"
    )


@pytest.mark.usefixtures("settled")
def test_what_must_not_run_twice_does_not_when_its_replica_dies(
    clients: list[Client], daemon: Daemon, tmp_path: Path
) -> None:
    run = Run(clients, tmp_path / "log", "once")
    run.wait_for(100)
    os.kill(daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)[0], signal.SIGKILL)
    errors = run.errors()
    assert errors
    assert {type(error) for error in errors.values()} == {OutcomeUnknown}
    runs = run.runs()
    assert max(runs.values()) == 1
    assert set(run.futures) - set(runs) <= set(errors)


@pytest.mark.usefixtures("settled")
def test_a_killed_agent_takes_its_replicas_along_and_a_new_pilot_takes_over(
    clients: list[Client], daemon: Daemon, tmp_path: Path
) -> None:
    run = Run(clients, tmp_path / "log")
    run.wait_for(100)
    replicas = daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)
    (agent,) = [each.pid for each in status(clients[0]).pilots]
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    assert run.errors() == {}
    assert set(run.runs()) == set(run.futures)
    assert not any(is_alive(pid) for pid in replicas)


@pytest.mark.usefixtures("settled")
def test_what_must_not_run_twice_does_not_when_the_agent_dies(
    clients: list[Client], daemon: Daemon, tmp_path: Path
) -> None:
    daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)
    run = Run(clients, tmp_path / "log", "once")
    run.wait_for(100)
    (agent,) = [each.pid for each in status(clients[0]).pilots]
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    assert {type(error) for error in run.errors().values()} <= {OutcomeUnknown}
    assert max(run.runs().values()) == 1


# --- the whole daemon --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["again", "once"])
def test_the_whole_daemon_is_killed_and_started_again(new_daemon: NewDaemon, tmp_path: Path, method: str) -> None:
    daemon = new_daemon(pilots={"orphan_s": 60.0}, **OVERRIDES).up()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.client(timeout_s=100)) for _ in range(CLIENTS)]
        daemon.deploy(clients[0], SERVABLES / "tally", replicas=REPLICAS)
        replicas = daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)
        run = Run(clients, tmp_path / "log", method)
        run.wait_for(100)
        daemon.kill("supervisor")
        until(lambda: len(daemon.processes()) == 2 + REPLICAS, "only the pilot and its replicas are left")
        daemon.up()
        once_each(run, errors=(OutcomeUnknown,) if method == "once" else ())
        assert daemon.replica_pids(clients[0], "tally", at_least=REPLICAS) == replicas
        until(lambda: status(clients[0]).held_bytes == 0, "the broker holds nothing")


def test_a_request_that_came_while_nobody_was_there_is_answered(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(pilots={"orphan_s": 60.0}, **OVERRIDES).up()
    with daemon.client(timeout_s=60) as client:
        daemon.deploy(client, EXAMPLES / "echo")
        daemon.replica_pids(client, "echo")
        daemon.kill("supervisor")
        waiting = [client.submit("echo.echo", np.full(1, n, np.float32)) for n in range(100)]
        daemon.up()
        assert [float(each.result(60)["x"][0]) for each in waiting] == list(range(100))
