"""What this host says about a site: its network, its directories, its programs; and what a node sees of it."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.cluster import site_host
from hpcserve.cluster.reach import reach
from hpcserve.config import Containers, Mpi, Network, Scheduler, Site, read_site


def site(tmp_path: Path, *, host: str = "127.0.0.1", kind: str = "local", front_port: int = 0) -> Site:
    return msgspec.structs.replace(
        read_site("local"),
        state_dir=tmp_path / "state",
        shared_dir=tmp_path / "shared",
        network=Network(host=host, front_port=front_port),
        scheduler=Scheduler(kind=kind),
    )


@contextmanager
def doors(looked_at: Site) -> Iterator[site_host.Doors]:
    opened = site_host.Doors(looked_at)
    try:
        yield opened
    finally:
        opened.close()


def network(looked_at: Site) -> tuple[str, str]:
    with doors(looked_at) as opened:
        found = site_host.network(looked_at, opened)
    return found.outcome, found.told


def test_an_interface_is_known_by_its_name_or_its_address(tmp_path: Path) -> None:
    assert network(site(tmp_path)) == ("ok", "127.0.0.1")
    assert network(site(tmp_path, host="lo")) == ("ok", "lo is 127.0.0.1")


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (
            "nope0",
            "network.host: 'nope0' is no interface, and no name or address; this host has the interfaces lo (",
        ),
        ("192.0.2.1", "network.host: cannot listen on '192.0.2.1': Cannot assign requested address"),
        ("", "network.host is empty; this host has the interfaces lo (127.0.0.1"),
        ("127.0.0.1", "network.host: '127.0.0.1' is 127.0.0.1, which other hosts cannot reach"),
        ("lo", "network.host: 'lo' is 127.0.0.1, which other hosts cannot reach"),
    ],
)
def test_an_address_that_compute_nodes_cannot_reach_is_refused(tmp_path: Path, host: str, told: str) -> None:
    outcome, said = network(site(tmp_path, host=host, kind="slurm"))
    assert outcome == "failed"
    assert said.startswith(told)


@pytest.mark.parametrize(
    ("host", "outcome", "told"),
    [
        (
            "hsn0",
            "skipped",
            "network.host: 'hsn0' is one of a compute node, since the daemon runs in a job; hpcserve site",
        ),
        ("192.0.2.1", "skipped", "network.host: '192.0.2.1' is one of a compute node"),
        ("lo", "failed", "network.host: 'lo' is 127.0.0.1, which other hosts cannot reach; name the interface that"),
    ],
)
def test_the_interface_of_a_daemon_in_a_job_is_not_looked_for_here(
    tmp_path: Path, host: str, outcome: str, told: str
) -> None:
    found = site_host.of_a_node(site(tmp_path, host=host, kind="slurm"))
    assert (found.outcome, found.told.startswith(told)) == (outcome, True)


def test_a_node_reaches_all_doors_and_says_which_it_does_not(tmp_path: Path) -> None:
    with doors(site(tmp_path)) as opened, socket.create_server(("127.0.0.1", 0)) as mute:
        assert [reach(address) for address in opened.addresses] == [None, None, None]
        mute_address = f"127.0.0.1:{mute.getsockname()[1]}"
        mute.close()
        assert reach(mute_address) is not None
    assert reach(opened.addresses[0]) is not None


def test_a_port_that_the_daemon_has_already_is_a_door_too(tmp_path: Path) -> None:
    with doors(site(tmp_path)) as running:
        port = int(running.addresses[0].rpartition(":")[2])
        with doors(site(tmp_path, front_port=port)) as opened:
            assert opened.addresses[1] == running.addresses[0]
            assert not opened.error
            assert reach(opened.addresses[1]) is None


def test_the_shared_directory_must_be_writable_and_have_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked_at = site(tmp_path)
    deep = msgspec.structs.replace(looked_at, shared_dir=tmp_path / "home" / "shared")
    assert site_host.shared_dir(deep).outcome == "ok"
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "home", tmp_path / "home" / "shared")] == [0o700] * 2
    assert site_host.shared_dir(looked_at).outcome == "ok"
    assert list((tmp_path / "shared").iterdir()) == []
    monkeypatch.setattr(site_host, "LEAST_FREE_BYTES", 1 << 62)
    assert "too little: at least 4.6e+09 GB are wanted; clean up" in site_host.shared_dir(looked_at).told
    (tmp_path / "file").touch()
    found = site_host.shared_dir(msgspec.structs.replace(looked_at, shared_dir=tmp_path / "file" / "x"))
    assert (found.outcome, found.told.startswith(f"cannot write to {tmp_path}/file/x: ")) == ("failed", True)


def test_the_state_directory_must_have_room_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked_at = site(tmp_path)
    assert site_host.state_dir(looked_at).told == f"{tmp_path}/state will be made"
    assert not looked_at.state_dir.exists()
    looked_at.state_dir.mkdir()
    found = site_host.state_dir(looked_at)
    assert (found.outcome, found.told.startswith(f"{tmp_path}/state, ")) == ("ok", True)
    assert list(looked_at.state_dir.iterdir()) == []
    monkeypatch.setattr(site_host, "LEAST_STATE_BYTES", 1 << 62)
    assert site_host.state_dir(looked_at).outcome == "failed"
    looked_at.state_dir.rmdir()
    found = site_host.state_dir(looked_at)
    assert (found.outcome, found.told.startswith(f"{tmp_path}, ")) == ("failed", True)


def test_a_quota_shows_when_a_little_is_written(tmp_path: Path) -> None:
    looked_at = site(tmp_path)
    for place in (looked_at.state_dir, looked_at.shared_dir):
        place.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (site_host.TRIED_BYTES // 2, before[1]))
    try:
        found = [site_host.state_dir(looked_at), site_host.shared_dir(looked_at)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [each.outcome for each in found] == ["failed", "failed"]
    assert [each.told.partition(": [")[0] for each in found] == [
        f"cannot write to {tmp_path}/state",
        f"cannot write to {tmp_path}/shared",
    ]


def test_the_container_runtime_must_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked_at = site(tmp_path)
    assert list(site_host.containers(looked_at)) == []
    looked_at = msgspec.structs.replace(looked_at, containers=Containers(runtime="podman-hpc"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [each.outcome for each in site_host.containers(looked_at)] == ["failed"]
    (tmp_path / "podman-hpc").touch(mode=0o755)
    assert [each.told for each in site_host.containers(looked_at)] == [str(tmp_path / "podman-hpc")]


def listen(first: int, at: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", first + at))


@pytest.fixture
def one_taken() -> Iterator[int]:
    """The first of three ports that follow each other, of which the second one is in use."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as found:
            first = found.getsockname()[1]
        try:
            with listen(first, 0), listen(first, 2):
                taken = listen(first, 1)
            break
        except (OSError, OverflowError):  # somebody else has one of them
            continue
    with taken:
        yield first


def test_three_sockets_need_three_ports_at_once(tmp_path: Path, one_taken: int) -> None:
    first, last = one_taken, one_taken + 2
    looked_at = msgspec.structs.replace(site(tmp_path), network=Network(host="lo", port_range=f"{first}-{last}"))
    with doors(looked_at) as opened:
        assert [each.rpartition(":")[2] for each in opened.addresses] == [str(first), str(last), str(first + 1)]
        told = f"only 2 of the ports {first}-{last} of lo are free, and the daemon needs 3 of them: set [network] "
        assert opened.lacking().startswith(told)
        assert opened.lacking({f"127.0.0.1:{first + 1}"}) == ""
    roomy = msgspec.structs.replace(looked_at, network=Network(port_range=f"{first}-{last}", front_port=first + 1))
    with doors(roomy) as opened:
        assert opened.lacking().startswith(f"port {first + 1} of 127.0.0.1 is in use by another program: set [network]")


def test_the_command_that_starts_ranks_is_looked_for_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    def found(launcher: str, command: str) -> list[tuple[str, str]]:
        looked_at = site(tmp_path)
        pilots = msgspec.structs.replace(looked_at.pilots, launcher=launcher)
        looked_at = msgspec.structs.replace(looked_at, pilots=pilots, mpi=Mpi(command=command))
        return [(each.outcome, each.told) for each in site_host.mpi(looked_at)]

    assert found("process", "mpiexec") == found("srun", "mpirun") == []
    told = "mpi.command: no command 'mpiexec' in PATH; load its module, or set mpi.command to its whole path"
    assert found("mpiexec", "mpiexec") == [("failed", told)]
    assert [outcome for outcome, _ in found("process", "mpirun")] == ["failed"]
    there = tmp_path / "mpiexec"
    there.touch(mode=0o755)
    assert found("mpiexec", "mpiexec") == found("process", str(there)) == [("ok", str(there))]


def test_the_container_runtime_is_looked_for_by_the_command_that_the_site_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    there = tmp_path / "our-apptainer"
    there.touch(mode=0o755)

    def found(command: str) -> list[tuple[str, str]]:
        looked_at = msgspec.structs.replace(site(tmp_path), containers=Containers(runtime="apptainer", command=command))
        return [(each.outcome, each.told) for each in site_host.containers(looked_at)]

    assert found("our-apptainer") == [("ok", str(there))]
    told = "containers.{}: no command {!r} in PATH; load its module, or correct the site file"
    assert found("") == [("failed", told.format("runtime", "apptainer"))]
    assert found("gone") == [("failed", told.format("command", "gone"))]


@pytest.mark.parametrize(
    ("scheduler", "containers", "mpi", "outcome", "told"),
    [
        ("local", {}, {}, "ok", "{}/our-apptainer"),
        ("local", {"binds": ("{}/text:/x", "{}/gone:/y")}, {}, "failed", "containers.binds: there is no {}/gone on"),
        ("local", {}, {"binds": ("{}/gone",)}, "failed", "mpi.binds: there is no {}/gone on this host"),
        ("local", {"signature_key": "{}/gone"}, {}, "failed", "containers.signature_key: {}/gone cannot be read: No"),
        ("local", {"signature_key": "{}/text"}, {}, "failed", "containers.signature_key: {}/text is no public key"),
        ("local", {"signature_key": "{}/key"}, {}, "ok", "{}/our-apptainer"),
        ("local", {"stage_dir": "{}"}, {}, "ok", "{}/our-apptainer"),
        ("local", {"stage_dir": "{}/gone"}, {}, "failed", "containers.stage_dir: {}/gone is no directory on"),
        (
            "slurm",
            {"stage_dir": "{}/gone"},
            {},
            "warning",
            "containers.stage_dir: {}/gone is no directory on",
        ),
    ],
)
def test_what_containers_are_to_have_is_looked_for(
    tmp_path: Path, scheduler: str, containers: dict[str, Any], mpi: dict[str, Any], outcome: str, told: str
) -> None:
    (tmp_path / "our-apptainer").touch(mode=0o755)
    (tmp_path / "text").write_text("garbage")
    (tmp_path / "key").write_text("-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----\n")

    def here(fields: dict[str, Any]) -> dict[str, Any]:
        place = str(tmp_path)
        return {
            name: value.format(place) if isinstance(value, str) else tuple(each.format(place) for each in value)
            for name, value in fields.items()
        }

    looked_at = msgspec.structs.replace(
        site(tmp_path, kind=scheduler),
        containers=Containers(runtime="apptainer", command=f"{tmp_path}/our-apptainer", **here(containers)),
        mpi=Mpi(**here(mpi)),
    )
    *_, last = site_host.containers(looked_at)
    assert last.outcome == outcome
    assert last.told.startswith(told.format(tmp_path))
