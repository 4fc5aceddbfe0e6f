"""How ``hpcserve status`` looks: on terminals of several widths, and in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from rich.console import Console, Group

from hpcserve.cli.status import COLOURS, drawn
from hpcserve.wire.admin import DeploymentView, PilotView, ReplicaView, ServableView, Status
from hpcserve.wire.messages import BatchesRun
from tests.acceptance.newcomer import HPCSERVE, User, user_in

OLD, NEW = "0ld0123456789", "9e30123456789"
STATES = ["ready", "draining", "retiring", "connecting", "starting", "stopping", "retired"]


def status(**changes: Any) -> Status:
    """A daemon that has been busy for days, with replicas of one version in every state."""
    replicas = tuple(
        ReplicaView(
            replica=f"surrogate-609f-{number}",
            version=NEW,
            state=state,
            pilot="pilot-609f-12",
            pid=4194304,
            waiting=100,
            answered=1_000_000,
            connected=True,
            learned=(BatchesRun("predict_many", "images float32[n, 8, 8]", 1024, 987.6, 1_000_000, 123456.7, 1234.5),),
        )
        for number, state in enumerate(STATES)
    )
    deployment = DeploymentView(
        deployment="surrogate",
        endpoints=("surrogate",),
        version=NEW,
        methods=("predict",),
        wanted=3,
        objective_ms=50.0,
        max_batch_size=None,
        max_queue_bytes=None,
        max_queue_s=0.5,
        state="ready",
        error="",
        traceback="",
        queued=12345,
        queued_bytes=123_456_789,
        refused=1_234_567,
        expired=123_456,
        wait_s=12345.6,
        restarts=12,
        replicas=replicas,
    )
    pilot = PilotView(
        pilot="pilot-609f-12",
        state="running",
        job="12345678.polaris-pbs-01",
        host="x3001c0s13b0n0",
        pid=1,
        replicas=16,
        slots=16,
        walltime_left_s=86399,
    )
    servable = ServableView(name="surrogate", version=NEW, aliases=("latest", "stable"), methods=("predict", "embed"))
    found = Status(
        service="local",
        site="local",
        host="polaris-login-01",
        software="hpcserve 0.1.0",
        epoch=1048577,
        uptime_s=300_000.0,
        processes=dict.fromkeys(("admission", "broker", "controller", "supervisor"), 4194304),
        sessions=100,
        requests=1_234_567,
        answered=1_234_567,
        failed=12,
        refused=345,
        requeued=67,
        held_bytes=1 << 30,
        recovering=False,
        servables=(servable,),
        deployments=(deployment,),
        pilots=(pilot,),
    )
    return msgspec.structs.replace(found, **changes)


def lines(shown: Status, width: int) -> list[str]:
    screen = Console(width=width, color_system=None, highlight=False, markup=False)
    with screen.capture() as captured:
        screen.print(Group(*drawn(shown)))
    return captured.get().splitlines()


def row(shown: list[str], first: str) -> list[str]:
    """The only line that begins with this word, as words."""
    (found,) = [line.split() for line in shown if line.split()[:1] == [first]]
    return found


@pytest.mark.parametrize("width", [80, 120])
def test_no_header_and_no_row_is_folded(width: int) -> None:
    shown = lines(status(), width)
    assert max(map(len, shown)) <= width
    assert row(shown, "endpoint") == ["endpoint", "version", "state", "ready", "queued", "restarts"]
    assert row(shown, "queue") == ["queue", "queued", "bytes", "wait", "refused", "expired"]
    assert row(shown, "surrogate-609f-1")[1:] == ["draining", "pilot-609f-12", "4194304", "100", "1000000"]
    assert row(shown, "replica") == ["replica", "state", "pilot", "pid", "waiting", "answered"]
    assert row(shown, "method") == ["method", "replica", "batches", "mean", "at", "most", "n", "samples", "take"]
    learned = ["surrogate-609f-0", "1000000", "987.6", "1024", "123", "ms", "+", "n", "×", "1.23", "ms"]
    assert next(line.split() for line in shown if line.startswith("predict_many"))[1:] == learned
    assert row(shown, "pilot") == ["pilot", "state", "job", "host", "replicas", "walltime", "left"]
    assert row(shown, "requests:")[-1] == "requeued"
    pids = "pids: admission 4194304, broker 4194304, controller 4194304, supervisor 4194304"
    assert pids in shown
    assert row(shown, "on")[-1] == "GiB"


@pytest.mark.parametrize(("nodes", "told"), [(1, ["8"]), (2, ["8", "on", "2", "nodes"])])
def test_of_replicas_of_several_ranks_these_and_the_slots_that_are_used_are_told(nodes: int, told: list[str]) -> None:
    (deployment,), (pilot,) = status().deployments, status().pilots
    wide = msgspec.structs.replace(deployment.replicas[0], ranks=8, nodes=nodes, slots=8)
    told_of = msgspec.structs.replace(deployment, replicas=(wide, deployment.replicas[1]))
    room = msgspec.structs.replace(pilot, replicas=2, used=9)
    shown = lines(status(deployments=(told_of,), pilots=(room,)), 120)
    assert row(shown, "replica")[:3] == ["replica", "ranks", "state"]
    assert row(shown, "surrogate-609f-0")[1:-5] == told
    assert row(shown, "surrogate-609f-1")[1] == "1"
    assert row(shown, "pilot")[4:6] == ["replicas", "slots"]
    assert row(shown, "pilot-609f-12")[4:6] == ["2", "9/16"]


def test_of_a_replica_that_waits_for_room_a_line_says_for_what() -> None:
    (deployment,) = status().deployments
    told = "it waits for 2 slots on each of 2 nodes; free slots: 1 of node1, 4 of node2"
    waiting = msgspec.structs.replace(deployment.replicas[4], ranks=4, nodes=2, slots=4, cause=told)
    shown = lines(status(deployments=(msgspec.structs.replace(deployment, replicas=(waiting,)),)), 120)
    assert shown[shown.index("queues") :].count(f"surrogate-609f-4: {told}") == 1


def test_at_any_width_every_character_is_there() -> None:
    whole, narrow = ("".join(sorted("".join(lines(status(), width)))) for width in (300, 50))
    assert whole.replace("─", "").strip() == narrow.replace("─", "").strip()


def test_batches_of_several_shapes_are_told_apart() -> None:
    (deployment,) = status().deployments
    replica = deployment.replicas[0]
    kinds = tuple(msgspec.structs.replace(replica.learned[0], inputs=f"x int8[n, {size}]") for size in (1, 2))
    replicas = (msgspec.structs.replace(replica, learned=kinds),)
    shown = lines(status(deployments=(msgspec.structs.replace(deployment, replicas=replicas),)), 200)
    assert [line.split("  ")[0] for line in shown if line.startswith("predict_many")] == [
        "predict_many(x int8[n, 1])",
        "predict_many(x int8[n, 2])",
    ]


def mixed() -> Status:
    """One replica of the new version and one of the old one are ready."""
    (deployment,) = status().deployments
    new, old = deployment.replicas[0], msgspec.structs.replace(deployment.replicas[1], version=OLD)
    return status(deployments=(msgspec.structs.replace(deployment, replicas=(new, old)),))


@pytest.mark.parametrize("width", [80, 120])
def test_versions_are_shown_where_they_are_mixed(width: int) -> None:
    shown = lines(mixed(), width)
    assert max(map(len, shown)) <= width
    assert row(shown, "replica")[1] == "version"
    text = "\n".join(shown)
    assert f"{NEW[:12]}  ready" in text
    assert f"{OLD[:12]}  draining" in text
    assert "1/3" in text
    assert "version" not in row(lines(status(), width), "replica")


def test_an_error_stands_below_its_table_in_a_line() -> None:
    (deployment,) = status().deployments
    broken = msgspec.structs.replace(deployment, state="failed", error="it broke: " + "why " * 12 + "\nand more")
    shown = lines(status(deployments=(broken,)), 80)
    assert ("surrogate: it broke: " + "why " * 12).strip() in [line.strip() for line in shown]
    assert not any("and more" in line for line in shown)


@pytest.mark.parametrize(
    ("state", "most", "plan", "told"),
    [
        ("ready", None, "2 replicas, fixed", ["surrogate: plan: 2 replicas, fixed"]),
        ("paused", None, "paused", ["surrogate: plan: paused"]),
        ("idle", 4, "no replica, because", ["surrogate: plan [0 to 4]: no replica, because"]),
        ("starting", None, "1 pilot queued", ["surrogate: plan: 1 pilot queued"]),
        ("failed", None, "2 replicas", []),
        ("draining", None, "2 replicas", []),
    ],
)
def test_the_plan_of_each_deployment_that_may_be_served(
    state: str, most: int | None, plan: str, told: list[str]
) -> None:
    (deployment,) = status().deployments
    planned = msgspec.structs.replace(deployment, state=state, plan=plan, min_replicas=0, max_replicas=most)
    shown = lines(status(deployments=(planned,)), 120)
    assert [line.strip() for line in shown if ": plan" in line] == told


SILENCE = "squeue --noheader --me did not answer within 30 s and was killed"


@pytest.mark.parametrize(("error", "below"), [("", 1), (f"pilot-1, pilot-2 are unknown: {SILENCE}", 0)])
def test_what_holds_for_several_pilots_is_told_once(error: str, below: int) -> None:
    (deployment,), (pilot,) = status().deployments, status().pilots
    unknown = tuple(
        msgspec.structs.replace(pilot, pilot=name, state="unknown", waits_for=SILENCE)
        for name in ("pilot-1", "pilot-2")
    )
    shown = lines(status(deployments=(msgspec.structs.replace(deployment, error=error),), pilots=unknown), 160)
    assert sum(SILENCE in line for line in shown) == 1
    assert shown.count(f"pilot-1, pilot-2: {SILENCE}") == below


def test_each_pilot_in_the_queue_is_told_with_its_reason_although_its_deployment_is() -> None:
    (deployment,), (pilot,) = status().deployments, status().pilots
    queued = msgspec.structs.replace(pilot, state="queued", waits_for="Priority", starts_in_s=90.0)
    waits = msgspec.structs.replace(deployment, error="pilot-609f-12 is queued: Priority (expected to start in 2 min)")
    shown = lines(status(deployments=(waits,), pilots=(queued,)), 160)
    assert any(line.startswith("pilot-609f-12: Priority; expected to start in 1 min") for line in shown)


@pytest.mark.parametrize("state", [*STATES, "paused", "failed", "unknown", "running", "queued", "leaving"])
def test_each_state_has_a_colour(state: str) -> None:
    assert COLOURS[state] in {"green", "yellow", "cyan", "red"}


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with user_in(tmp_path_factory.mktemp("user")) as found:
        found.ok("up", "--detach")
        yield found
        found.ok("down")


def on_a_terminal(user: User, width: int) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {**user.environment, "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen([*HPCSERVE, "status"], env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # how a terminal says that all its writers have gone
            pass
        os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode())


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines(user: User) -> None:
    said = user.ok("status")
    assert said.splitlines()[0].startswith("hpcserve ")
    assert all(line == line.rstrip() for line in said.splitlines())
    assert all(line == line.rstrip() for line in user.ok("service", "list").splitlines())


def test_the_width_of_the_terminal_counts(user: User) -> None:
    first, *_ = user.ok("status").splitlines()
    assert on_a_terminal(user, 100).splitlines()[0] == first
    assert max(map(len, on_a_terminal(user, 30).splitlines())) <= 30


def test_the_phases_of_cold_starts_that_were_measured() -> None:
    """Each in its column, whoever it is of; none that nobody has."""
    found = status()
    assert not any(line.startswith("cold starts") for line in lines(found, 80))
    (each,), (pilot,) = found.deployments, found.pilots
    phases = {"connect": 0.004, "start": 1234.5, "import": 12.345, "load": 99.994, "warm-up": 2.0}
    replicas = (msgspec.structs.replace(each.replicas[0], phases=phases), *each.replicas[1:])
    shown = status(
        deployments=(msgspec.structs.replace(each, replicas=replicas),),
        pilots=(msgspec.structs.replace(pilot, phases={"queue": 98765.4, "agent": 1.5}),),
    )
    for width in (80, 120):
        table = lines(shown, width)
        table = table[table.index("cold starts, in seconds") :]
        names = ["start", "of", "queue", "agent", "start", "import", "load", "warm-up", "connect"]
        assert row(table, "start") == names
        assert row(table, "pilot-609f-12") == ["pilot-609f-12", "98765", "1.50"]
        assert row(table, "surrogate-609f-0")[1:] == ["1234", "12.35", "99.99", "2.00", "0.00"]
    bare = msgspec.structs.replace(replicas[0], phases={"load": 0.5})
    alone = lines(status(deployments=(msgspec.structs.replace(each, replicas=(bare,)),)), 80)
    assert row(alone[alone.index("cold starts, in seconds") :], "start") == ["start", "of", "load"]
