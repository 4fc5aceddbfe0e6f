"""Each process is killed with a thousand requests in flight: every one is answered, and the runs are counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.outputs import Outputs
from hpcserve.client.services import Service
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
        return Counter(name for name, _ in runs_in(self.log))

    def ran_outside(self, pid: int) -> set[str]:
        """The requests that ran in another process than this one."""
        return {name for name, ran_in in runs_in(self.log) if ran_in != pid}


def runs_in(log: Path) -> list[tuple[str, int]]:
    """What the servable wrote down: each run's request, and the process that it was in."""
    if not log.exists():
        return []
    lines = [line.split() for line in log.read_text().splitlines()]
    return [(name, int(pid)) for name, _, pid in lines]


def agent_of(client: Client) -> int:
    (agent,) = [each.pid for each in status(client).pilots]
    assert agent is not None
    return agent


@pytest.fixture
def settled(clients: list[Client]) -> Iterator[None]:
    """Afterwards nothing is held any more: neither in the broker nor in an outbox."""
    yield
    until(lambda: status(clients[0]).held_bytes == 0, "the broker holds nothing", within_s=60)


def once_each(run: Run, errors: tuple[type[BaseException], ...] = ()) -> None:
    """Each was answered and has run once. ``errors`` are answers too, but not to what a living replica ran."""
    failed = run.errors()
    assert not [error for error in failed.values() if type(error) not in errors][:1]
    runs = run.runs()
    assert max(runs.values()) == 1
    assert set(runs) == set(run.futures) - set(failed)


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
    # What had not reached a replica: a new broker cannot know that it has not run, at one that has died since.
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


# --- results in outboxes -----------------------------------------------------------------------------------------

WAITING = 100
RESULT_BYTES = 50_000
"""A stopped client acknowledges nothing, and is sent no more than its budget: the other results stay where they are."""


@pytest.fixture
def outboxes(new_daemon: NewDaemon) -> Iterator[tuple[Daemon, Client]]:
    """A daemon whose replicas keep nearly all results of a client that is stopped, for as long as this takes."""
    daemon = new_daemon(budgets={"session_bytes": 10 * RESULT_BYTES}, recovery={"session_linger_s": 60.0}).up()
    with daemon.client() as client:
        daemon.deploy(client, SERVABLES / "tally", replicas=REPLICAS)
        daemon.replica_pids(client, "tally", at_least=REPLICAS)
        yield daemon, client


@contextlib.contextmanager
def stopped_replicas(daemon: Daemon) -> Iterator[None]:
    with daemon.client() as client:
        replicas = daemon.replica_pids(client, "tally", at_least=REPLICAS)
    for pid in replicas:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in replicas:
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def full_outboxes(daemon: Daemon, log: Path) -> Iterator[Callable[[], None]]:
    """A client is stopped until all its requests have run; calling it resumes it, and it gets every answer."""
    answers = log.with_name("answers")
    with contextlib.ExitStack() as stack:
        with stopped_replicas(daemon):  # else the client may have got most answers before it is stopped
            resume = stack.enter_context(stopped_client(daemon, log, answers, WAITING, "bulk"))
        until(lambda: len(runs_in(log)) == WAITING, "all of them have run")

        def answered() -> None:
            assert not answers.exists(), "it is stopped"
            assert resume() == [str(n) for n in range(WAITING)]

        yield answered


def test_results_that_wait_in_outboxes_survive_the_broker(outboxes: tuple[Daemon, Client], tmp_path: Path) -> None:
    """Even two brokers, one after the other."""
    daemon, client = outboxes
    replicas = daemon.replica_pids(client, "tally", at_least=REPLICAS)
    with full_outboxes(daemon, tmp_path / "log") as answered:
        daemon.kill("broker")
        until(lambda: not status(client).recovering, "the new broker has heard the replicas")
        daemon.kill("broker")
        answered()
    assert daemon.replica_pids(client, "tally", at_least=REPLICAS) == replicas
    assert len(runs_in(tmp_path / "log")) == WAITING
    until(lambda: status(client).held_bytes == 0, "the broker holds nothing")


@pytest.mark.parametrize("process", ["controller", "admission"])
def test_results_that_wait_in_outboxes_survive(outboxes: tuple[Daemon, Client], tmp_path: Path, process: str) -> None:
    daemon, client = outboxes
    replicas = daemon.replica_pids(client, "tally", at_least=REPLICAS)
    with full_outboxes(daemon, tmp_path / "log") as answered:
        killed = daemon.kill(process)
        until(lambda: daemon.pid_of(process) != killed, "it runs again")
        answered()
    assert daemon.replica_pids(client, "tally", at_least=REPLICAS) == replicas
    assert len(runs_in(tmp_path / "log")) == WAITING
    until(lambda: status(client).held_bytes == 0, "the broker holds nothing")


def test_results_in_the_outbox_of_a_killed_replica_are_made_again(
    outboxes: tuple[Daemon, Client], tmp_path: Path
) -> None:
    daemon, client = outboxes
    victim, other = daemon.replica_pids(client, "tally", at_least=REPLICAS)
    with full_outboxes(daemon, tmp_path / "log") as answered:
        runs = runs_in(tmp_path / "log")
        os.kill(victim, signal.SIGKILL)
        until(lambda: not is_alive(victim), "it is gone")
        until(lambda: victim not in daemon.replica_pids(client, "tally"), "it is known to be gone")
        answered()
    lost = {name for name, pid in runs if pid == victim}
    again = Counter(name for name, _ in runs_in(tmp_path / "log")[WAITING:])
    assert again, "its results were in its outbox alone"
    assert max(again.values()) == 1
    assert set(again) <= lost, "what the other one kept is not run again"
    assert other in daemon.replica_pids(client, "tally", at_least=REPLICAS)
    until(lambda: status(client).held_bytes == 0, "the broker holds nothing")


def test_results_in_the_outboxes_of_a_lost_pilot_are_made_again(
    outboxes: tuple[Daemon, Client], tmp_path: Path
) -> None:
    daemon, client = outboxes
    replicas = daemon.replica_pids(client, "tally", at_least=REPLICAS)
    with full_outboxes(daemon, tmp_path / "log") as answered:
        os.kill(agent_of(client), signal.SIGKILL)
        until(lambda: not any(is_alive(pid) for pid in replicas), "its replicas end with it")
        until(lambda: not {*replicas} & {*daemon.replica_pids(client, "tally")}, "a new pilot takes over")
        answered()
    again = Counter(name for name, _ in runs_in(tmp_path / "log")[WAITING:])
    # Most were in an outbox. The others were on their way to the client, which has not lost them.
    assert len(again) > WAITING / 2
    assert max(again.values()) == 1
    until(lambda: status(client).held_bytes == 0, "the broker holds nothing")


def test_a_result_for_which_there_is_room_only_after_an_acknowledgement_comes(
    outboxes: tuple[Daemon, Client], tmp_path: Path
) -> None:
    _, client = outboxes
    parameters = {"log": str(tmp_path / "log"), "size_bytes": RESULT_BYTES}
    client.submit("tally.bulk", np.int64(1), parameters=parameters)
    large = parameters | {"size_bytes": 19 * RESULT_BYTES // 2, "sleep_s": 0.2}
    assert client.infer("tally.bulk", np.int64(2), parameters=large, timeout_s=10)["n"] == 2


def test_a_result_for_which_there_is_room_only_after_an_acknowledgement_comes_in_asyncio(
    outboxes: tuple[Daemon, Client], tmp_path: Path
) -> None:
    daemon, _ = outboxes
    parameters = {"log": str(tmp_path / "log"), "size_bytes": RESULT_BYTES}
    large = parameters | {"size_bytes": 19 * RESULT_BYTES // 2, "sleep_s": 0.2}

    async def play() -> None:
        async with AsyncClient(Service(daemon.record)) as client:
            small = client.submit("tally.bulk", np.int64(1), parameters=parameters)
            outputs = await client.infer("tally.bulk", np.int64(2), parameters=large, timeout_s=10)
            assert (await small)["n"] == 1
            assert outputs["n"] == 2

    with daemon.environment():
        asyncio.run(play())


SENDER = """
import sys
import numpy as np
from hpcserve import Client
from hpcserve.wire import admin
log, answers, count, sleep_s, method, size_bytes = *sys.argv[1:3], int(sys.argv[3]), float(sys.argv[4]), *sys.argv[5:]
with Client(timeout_s=100) as client:
    parameters = {"log": log, "sleep_s": sleep_s, "size_bytes": int(size_bytes)}
    futures = [client.submit(f"tally.{method}", np.int64(n), parameters=parameters) for n in range(count)]
    client.call("status", admin.AskStatus(), admin.Status)  # its answer comes after all of them have arrived
    print("sent", flush=True)
    sys.stdin.readline()
    results = [each.result() for each in futures]
    if method == "bulk":
        assert all((each["blob"] == n).all() and each["blob"].size == int(size_bytes) for n, each in enumerate(results))
    with open(answers, "w") as file:
        file.writelines(f"{int(each['n'])}\\n" for each in results)
"""


@contextlib.contextmanager
def stopped_client(
    daemon: Daemon, log: Path, answers: Path, count: int, method: str = "again"
) -> Iterator[Callable[[], list[str]]]:
    """A client in a process of its own that sent its requests and was stopped (SIGSTOP)."""
    process = subprocess.Popen(
        [sys.executable, "-c", SENDER, *map(str, (log, answers, count, SLEEP_S, method, RESULT_BYTES))],
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
    victim = daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)[0]
    os.kill(victim, signal.SIGKILL)
    errors = run.errors()
    assert errors
    assert {type(error) for error in errors.values()} == {OutcomeUnknown}
    assert max(run.runs().values()) == 1
    # What waited in the queue, or was at the other replica, is answered.
    assert len(errors) < len(run.futures) / 2
    assert run.ran_outside(victim).isdisjoint(errors)
    assert set(run.futures) - set(run.runs()) <= set(errors)


@pytest.mark.usefixtures("settled")
def test_a_killed_agent_takes_its_replicas_along_and_a_new_pilot_takes_over(
    clients: list[Client], daemon: Daemon, tmp_path: Path
) -> None:
    run = Run(clients, tmp_path / "log")
    run.wait_for(100)
    replicas = daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)
    os.kill(agent_of(clients[0]), signal.SIGKILL)
    assert run.errors() == {}
    assert set(run.runs()) == set(run.futures)
    assert max(run.runs().values()) <= 2
    assert not any(is_alive(pid) for pid in replicas)


@pytest.mark.usefixtures("settled")
def test_what_must_not_run_twice_does_not_when_the_agent_dies(
    clients: list[Client], daemon: Daemon, tmp_path: Path
) -> None:
    replicas = daemon.replica_pids(clients[0], "tally", at_least=REPLICAS)
    run = Run(clients, tmp_path / "log", "once")
    run.wait_for(100)
    os.kill(agent_of(clients[0]), signal.SIGKILL)
    errors = run.errors()
    assert errors
    assert {type(error) for error in errors.values()} == {OutcomeUnknown}
    assert max(run.runs().values()) == 1
    # What waited in the queue is answered by the new pilot's replicas.
    assert len(errors) < len(run.futures) / 2
    new = {name for name, pid in runs_in(run.log) if pid not in replicas}
    assert new
    assert new.isdisjoint(errors)
    assert set(run.futures) - set(run.runs()) <= set(errors)


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
