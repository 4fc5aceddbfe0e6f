"""Bad days of ranks that each have a container of the real Apptainer: a whole daemon, the site's mpiexec."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeadlineExceeded
from hpcserve.wire import admin
from tests.integration import images
from tests.integration.daemon_tree import Daemon, command_of, deployment, status, until

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 90.0
AGENT = f"{sys.executable} -P -m hpcserve.pilot "
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
# The second one lets a daemon's tree of processes be found, in containers too.
OVERRIDES = {
    "containers": {"runtime": "apptainer", "environment": ["TEST_DAEMON"]},
    "mpi": {"command": MPIEXEC, "family": "mpich"},
    "pilots": {"slots": 4, "launcher": "process", "orphan_s": 60.0, "stop_grace_s": 1.0, "max_pilots": 1},
    "recovery": {"recovery_grace_s": 30.0, "session_linger_s": 2.0, "hang_grace_s": 1.0, "lease_s": 3.0},
}
MANIFEST = """name = "boxed"
loader = "python"
entry = "model:Model"
[ranks]
size = 2
compute = "collective"
[environment]
kind = "container"
"""
CODE = """
import os, signal, subprocess, time
import numpy as np
from hpcserve import Tensor, method

class Model:
    def setup(self, context):
        self.rank = context.rank

    @method(inputs={"x": Tensor("int64", [-1])}, outputs={"y": Tensor("int64", [-1])})
    def total(self, x, comm, *, parameters):
        time.sleep(parameters.get("sleep_s", 0))
        if self.rank == parameters.get("hangs"):
            time.sleep(600)
        whole = np.empty_like(x)
        comm.Allreduce(x * (self.rank + 1), whole)
        return whole

    @method(inputs={}, outputs={"seen": Tensor("JSON", ())})
    def look(self, comm, *, parameters):
        def seen():
            return sorted(os.listdir("/tmp")), [path for path in parameters["paths"] if os.path.exists(path)]

        comm.Barrier()
        first = seen()
        open(f"/tmp/of-rank-{self.rank}", "x").close()
        comm.Barrier()
        return comm.allgather([first, seen()])

    @method(inputs={}, outputs={"pids": Tensor("int64", [-1])})
    def spawn(self, comm):
        # One is still a child, in a session of its own; the other has left its parent too.
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        subprocess.run(["sh", "-c", "sleep 601 &"], start_new_session=True, check=True, stdout=subprocess.DEVNULL)
        return np.array(comm.allgather(os.getpid()))
"""


@pytest.fixture(scope="module")
def client(daemon: Daemon, mpi_image: Path, image_dir: Path) -> Iterator[Client]:
    assert mpi_image.exists()
    images.packages(daemon.shared, image_dir, ranks=True)
    with daemon.client() as made:
        yield made


@pytest.fixture(scope="module")
def boxed(daemon: Daemon, client: Client, mpi_image: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The endpoint of a servable of two ranks."""
    place = tmp_path_factory.mktemp("servable") / "boxed"
    place.mkdir()
    (place / "model.py").write_text(CODE)
    (place / "servable.toml").write_text(f'{MANIFEST}image = "{mpi_image}"\n')
    return daemon.deploy(client, place)


def total(client: Client, endpoint: str, **parameters: float) -> list[int]:
    """The sum over both ranks."""
    answer = client.infer(f"{endpoint}.total", np.arange(3), parameters=parameters, timeout_s=PATIENCE_S)
    return [int(each) for each in answer["y"]]


def replica(client: Client, endpoint: str) -> str:
    """The one that is ready."""

    def found() -> str:
        ready = [each.replica for each in deployment(client, endpoint).replicas if each.state == "ready"]
        return "".join(ready)

    return until(found, "it is ready", PATIENCE_S)


def sleepers(daemon: Daemon) -> list[str]:
    return [each for each in daemon.commands() if "sleep 60" in each]


def spawned(daemon: Daemon, client: Client, endpoint: str) -> list[int]:
    """The ranks' process ids, once each has started two that would outlive it."""
    pids = client.infer(f"{endpoint}.spawn", {}, timeout_s=PATIENCE_S)["pids"]
    until(lambda: len(sleepers(daemon)) == 4, lambda: f"what the servable has started runs: {daemon.commands()}")
    return [int(each) for each in pids]


def test_each_rank_has_a_tmp_of_its_own_and_sees_nothing_of_the_service(
    daemon: Daemon, client: Client, boxed: str, tmp_path: Path
) -> None:
    """Here the daemon's directories lie below /tmp, and so may those of its sockets."""
    paths = [str(each) for each in (daemon.state, daemon.shared, daemon.home, tmp_path)]
    assert all(map(os.path.exists, paths))
    assert Path("/tmp") in daemon.state.parents
    seen = client.infer(f"{boxed}.look", {}, parameters={"paths": paths}, timeout_s=PATIENCE_S)["seen"]
    assert seen == [[[[], []], [[f"of-rank-{rank}"], []]] for rank in (0, 1)]


@pytest.mark.parametrize("rank", [0, 1])
def test_nothing_outlives_a_rank_whose_container_is_killed(
    daemon: Daemon, client: Client, boxed: str, rank: int
) -> None:
    before = replica(client, boxed)
    os.kill(spawned(daemon, client, boxed)[rank], signal.SIGKILL)
    until(lambda: not sleepers(daemon), lambda: f"nothing is left of it: {daemon.commands()}", PATIENCE_S)
    assert total(client, boxed) == [0, 3, 6]
    assert replica(client, boxed) != before


def test_nothing_outlives_an_agent_that_is_killed(daemon: Daemon, client: Client, boxed: str) -> None:
    replica(client, boxed)
    ranks = spawned(daemon, client, boxed)
    (agent,) = [pid for pid in daemon.processes() if command_of(pid).startswith(AGENT)]
    os.kill(agent, signal.SIGKILL)
    until(lambda: not sleepers(daemon), lambda: f"nothing is left of it: {daemon.commands()}", PATIENCE_S)
    until(lambda: not set(ranks) & set(daemon.processes()), "no rank is left", PATIENCE_S)
    assert total(client, boxed) == [0, 3, 6]


def test_a_group_goes_on_computing_while_its_daemon_is_killed_and_comes_back(
    daemon: Daemon, client: Client, boxed: str
) -> None:
    assert total(client, boxed) == [0, 3, 6]
    before = replica(client, boxed)
    future = client.submit(f"{boxed}.total", np.arange(3), parameters={"sleep_s": 3}, timeout_s=PATIENCE_S)
    until(lambda: any(each.waiting for each in deployment(client, boxed).replicas), "it runs")
    pids = status(client).processes
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    assert daemon.process is not None
    daemon.process.wait()
    daemon.up()
    assert future.result(PATIENCE_S)["y"].tolist() == [0, 3, 6]
    assert replica(client, boxed) == before


def test_a_rank_that_hangs_is_ended_after_the_deadline(client: Client, boxed: str) -> None:
    before = replica(client, boxed)
    with pytest.raises(DeadlineExceeded):
        client.infer(f"{boxed}.total", np.arange(3), parameters={"hangs": 1}, timeout_s=1.0)
    assert total(client, boxed) == [0, 3, 6]
    assert replica(client, boxed) != before


def test_the_end_of_a_deployment_leaves_nothing(daemon: Daemon, client: Client, boxed: str) -> None:
    ranks = spawned(daemon, client, boxed)
    client.call("undeploy", admin.Undeploy(endpoint=boxed), admin.Undeployed)
    until(lambda: not sleepers(daemon), lambda: f"nothing is left of it: {daemon.commands()}", PATIENCE_S)
    until(lambda: not set(ranks) & set(daemon.processes()), "no rank is left", PATIENCE_S)
