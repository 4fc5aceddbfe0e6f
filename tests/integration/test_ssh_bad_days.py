"""What can be wrong with a service behind ssh, each with a real sshd: the error says what to do."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from hpcserve import AsyncClient, Client
from hpcserve.cli.leaving import Leaving
from hpcserve.client import by_ssh
from hpcserve.client.services import Service
from hpcserve.client.ssh_address import SshAddress
from hpcserve.client.ssh_words import Unreached
from hpcserve.client.tunnel import Tunnel
from hpcserve.errors import AuthenticationError, Cancelled, ConfigError, ServiceUnavailable, VersionMismatch
from hpcserve.wire.record import ServiceRecord, decode_record, encode_record
from hpcserve.wire.tunnel import MARKER, TUNNEL_VERSIONS, Greeting, encode_greeting
from tests.integration.daemon_tree import EXAMPLES, Daemon, until
from tests.integration.sshd import Sshd, children, sshd_in

X = np.arange(3, dtype=np.float32)
WITHIN_S = 60.0
WAITS = "exec cat >/dev/null"  # until its standard input ends, as what ssh has started should
GO_ON = 'eval "$SSH_ORIGINAL_COMMAND"'


@pytest.fixture(scope="module")
def served(daemon: Daemon) -> Daemon:
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
    return daemon


@pytest.fixture
def sshd(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A login node, and our laptop with the key of the daemon's owner. At the end no ssh is left."""
    with sshd_in(tmp_path / "sshd", daemon.variables) as made:
        monkeypatch.setenv("HPCSERVE_HOME", str(made.home_with_key(daemon.home / "client.key")))
        monkeypatch.setenv("PATH", made.path)
        yield made
        assert not children("ssh")
        until(lambda: not made.far_sides(), "no hpcserve connect is left", WITHIN_S)


@pytest.fixture
def keeping() -> Iterator[list[str]]:
    """What has ssh keep a connection for others."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own is too long for a Unix socket's path
        yield ["ControlMaster auto", f"ControlPath {place}/%C", "ControlPersist 60"]


def answers(address: str) -> bool:
    with Client(address) as client:
        return bool(np.array_equal(client.infer("echo.echo", X, timeout_s=WITHIN_S)["x"], X))


def script(sshd: Sshd, *lines: str) -> str:
    """An executable on the login node."""
    path = sshd.place / "script"
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return str(path)


def leave(sshd: Sshd) -> None:
    """Ends the connection that ssh keeps."""
    argv = [str(sshd.laptop / "ssh"), "-p", str(sshd.port), "-O", "exit", "127.0.0.1"]
    subprocess.run(argv, check=True, capture_output=True)


def record_of(daemon: Daemon, copy: Path, port: int, host: str = "login1") -> Path:
    """A copy of the daemon's record with another host and another port of admission."""
    record = decode_record(daemon.record.read_bytes(), "the record")
    copy.write_bytes(encode_record(replace(record, host=host, admission=(f"tcp://127.0.0.1:{port}",))))
    return copy


def test_a_login_that_asks_for_a_password_is_refused_with_what_to_do(sshd: Sshd) -> None:
    sshd.configure("PubkeyAuthentication no", "PasswordAuthentication yes")
    with pytest.raises(AuthenticationError, match=r"without asking: .*Permission denied .*; use a key .*ControlMaster"):
        Client(sshd.address())


def test_a_connection_that_was_opened_by_hand_is_used_without_asking(
    sshd: Sshd, served: Daemon, keeping: list[str]
) -> None:
    assert served
    sshd.write_client(*keeping)
    subprocess.run([str(sshd.laptop / "ssh"), "-p", str(sshd.port), "127.0.0.1", "true"], check=True)
    try:
        sshd.configure("PubkeyAuthentication no", "PasswordAuthentication yes")
        assert answers(sshd.address())
        assert answers(sshd.address())
        assert sshd.logins == 1
    finally:
        leave(sshd)


def test_a_connection_that_ssh_keeps_for_others_is_kept_when_we_made_it(
    sshd: Sshd, served: Daemon, keeping: list[str]
) -> None:
    assert served
    sshd.write_client(*keeping)
    assert answers(sshd.address())
    try:
        assert answers(sshd.address())
        assert sshd.logins == 1
    finally:
        leave(sshd)


def test_an_unknown_host_key_is_not_taken(sshd: Sshd) -> None:
    (sshd.place / "known_hosts").write_text("")
    with pytest.raises(
        AuthenticationError, match="does not know the host key .*Host key verification failed.* by hand"
    ):
        Client(sshd.address())


def test_a_host_key_that_has_changed_is_told_in_the_words_of_ssh(sshd: Sshd) -> None:
    sshd.new_host_key()
    with pytest.raises(AuthenticationError, match="REMOTE HOST IDENTIFICATION HAS CHANGED"):
        Client(sshd.address())


def test_what_a_shell_prints_before_the_greeting_is_passed_over(sshd: Sshd, served: Daemon) -> None:
    assert served
    motd = script(
        sshd,
        "printf 'Welcome to the machine\\n\\033[1mMaintenance\\033[0m on Tuesday, no newline'",
        GO_ON,
    )
    sshd.configure(f"ForceCommand {motd}")
    assert answers(sshd.address())


def test_the_banner_of_a_site_is_neither_in_the_way_nor_a_reason(sshd: Sshd, served: Daemon) -> None:
    assert served
    banner = sshd.place / "banner"
    banner.write_text(
        f"Authorized users only.\n{'By logging in you agree. ' * 200}\nPermission denied to all others.\n"
    )
    sshd.configure(f"Banner {banner}")
    assert answers(sshd.address())
    sshd.configure(f"Banner {banner}", "PubkeyAuthentication no", "PasswordAuthentication yes")
    with pytest.raises(
        AuthenticationError, match=r"without asking: Authorized users .*: Permission denied \(.*use a key"
    ):
        Client(sshd.address())
    sshd.configure(f"Banner {banner}", f"ForceCommand {script(sshd, 'exec kill -9 $PPID')}")
    with pytest.raises(ServiceUnavailable, match="Authorized users only.*try by hand"):  # which is tried again
        Client(sshd.address())


def test_what_is_printed_in_place_of_the_greeting_is_shown(sshd: Sshd) -> None:
    sshd.configure(f"ForceCommand {script(sshd, 'echo Your account has expired', 'exit 1')}")
    with pytest.raises(ServiceUnavailable, match="exit code 1 and did not greet .it printed: Your account has expired"):
        Client(sshd.address())


def test_hpcserve_that_is_not_found_there_is_asked_for(sshd: Sshd) -> None:
    with pytest.raises(
        ConfigError, match=r"no command 'hpcserv' .*; give its path: 'ssh://.*\?command=/path/to/hpcserve'"
    ):
        Client(sshd.address(command="hpcserv"))


@pytest.mark.parametrize(("versions", "where"), [("[99]", "here"), ("[0]", "there")])
def test_a_far_side_of_another_version_says_which_to_upgrade(sshd: Sshd, versions: str, where: str) -> None:
    line = f'{MARKER.decode()}{{"versions":{versions},"software":"hpcserve 42"}}'
    with pytest.raises(VersionMismatch, match=f"hpcserve 42 there .*: upgrade hpcserve {where}"):
        Client(sshd.address(script(sshd, f"echo '{line}'", "cat")))


def test_a_record_of_a_later_format_is_not_guessed_at(sshd: Sshd, daemon: Daemon) -> None:
    record = replace(decode_record(daemon.record.read_bytes(), "the record"), format=2)
    greeting = Greeting(versions=TUNNEL_VERSIONS, software="hpcserve 42", record=record)
    line = MARKER + encode_greeting(greeting)
    (sshd.place / "line").write_bytes(line + b"\n")
    with pytest.raises(ConfigError, match="service record format 2; upgrade hpcserve"):
        Client(sshd.address(script(sshd, f"cat {sshd.place / 'line'} -")))


def test_a_far_side_from_before_ssh_is_told_as_such(sshd: Sshd) -> None:
    old = script(sshd, "echo \"error: no such command 'connect'; known: up\" >&2", "exit 2")
    with pytest.raises(VersionMismatch, match="too old .*upgrade hpcserve there"):
        Client(sshd.address(old))


def test_that_no_daemon_runs_there_is_told_with_the_host(sshd: Sshd) -> None:
    with pytest.raises(ServiceUnavailable, match=r"^127.0.0.1: no daemon runs here .*/nowhere/service.json"):
        Client(sshd.address(place="/nowhere/service.json"))
    with pytest.raises(ConfigError, match=r"^127.0.0.1: no site named 'nowhere'"):
        Client(sshd.address(place="/nowhere"))


def test_a_daemon_that_the_login_node_cannot_reach_is_told_with_its_host(sshd: Sshd, daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        record = record_of(daemon, sshd.place / "service.json", closed.getsockname()[1], host="login7")
    with pytest.raises(
        ServiceUnavailable, match=r"cannot reach the daemon at tcp://.* on login7: .*; log in to login7"
    ):
        Client(sshd.address(place=str(record)))


def test_a_daemon_on_another_login_node_is_reached_from_this_one(sshd: Sshd, served: Daemon) -> None:
    found = decode_record(served.record.read_bytes(), "the record")
    port = int(found.admission[0].rpartition(":")[2])
    assert answers(sshd.address(place=str(record_of(served, sshd.place / "service.json", port, host="login7"))))


def test_a_slow_start_is_waited_for(sshd: Sshd, served: Daemon) -> None:
    assert served
    sshd.configure(f"ForceCommand {script(sshd, 'sleep 3', GO_ON)}")
    assert answers(sshd.address())


def test_a_start_that_never_ends_is_given_up(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_ssh, "GREETING_S", 2.0)
    sshd.configure(f"ForceCommand {script(sshd, 'echo Loading modules', WAITS)}")
    with pytest.raises(ServiceUnavailable, match="did not greet within 2 s .it printed: Loading modules"):
        Client(sshd.address())


def test_who_gives_up_waiting_for_ssh_is_let_go(sshd: Sshd) -> None:
    sshd.configure(f"ForceCommand {script(sshd, WAITS)}")

    async def run() -> None:
        async with asyncio.timeout(1.0):
            async with AsyncClient(sshd.address()):
                raise AssertionError("nobody has greeted")

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert time.monotonic() - began < by_ssh.GREETING_S / 2


def test_who_gives_up_waiting_for_a_daemon_that_is_silent_is_let_go(sshd: Sshd, daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        record = record_of(daemon, sshd.place / "service.json", silent.getsockname()[1])

        async def run() -> None:
            async with asyncio.timeout(WITHIN_S) as patience, AsyncClient(sshd.address(place=str(record))):
                raise AssertionError(f"nobody has answered in {patience}")

        async def give_up() -> None:
            trying = asyncio.create_task(run())
            silent.setblocking(False)
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            with connection:
                trying.cancel()
                began = time.monotonic()
                await asyncio.wait((trying,))
                assert time.monotonic() - began < by_ssh.ANSWER_S / 2
                assert trying.cancelled()

        asyncio.run(give_up())


def test_without_ssh_on_the_laptop_it_says_so(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot run ssh .*install OpenSSH's client"):
        Client(sshd.address())


@pytest.mark.usefixtures("sshd")
def test_a_port_without_sshd_is_told_in_the_words_of_ssh() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ServiceUnavailable, match="Connection refused"):
        Client(f"ssh://127.0.0.1:{port}")


def test_a_daemon_that_goes_down_is_not_called_gone_because_ssh_is(sshd: Sshd, daemon: Daemon) -> None:
    record = decode_record(daemon.record.read_bytes(), "the record")

    def stands(address: str) -> bool:
        service = Service(address=address)
        return Leaving(service, service.read, record).stands()

    assert stands(sshd.address())
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert stands(f"ssh://127.0.0.1:{port}")
    assert not stands(sshd.address(place="/nowhere/service.json"))


def test_a_record_is_read_again_and_again_with_one_login(sshd: Sshd, daemon: Daemon) -> None:
    record = decode_record(daemon.record.read_bytes(), "the record")
    copy = sshd.place / "service.json"
    copy.write_bytes(encode_record(record))
    with Service(address=sshd.address(place=str(copy))).reading() as read:
        assert [read() for _ in range(3)] == [record] * 3
        copy.write_bytes(encode_record(replace(record, pid=1)))
        assert read().pid == 1
        copy.unlink()
        with pytest.raises(ServiceUnavailable, match="no daemon runs here"):
            read()
        assert sshd.logins == 1
        copy.write_bytes(encode_record(record))
        sshd.cut()
        until(lambda: _reads(read) == record, "it has logged in anew", WITHIN_S)


def _reads(read: Callable[[], ServiceRecord]) -> ServiceRecord | None:
    """What is read, unless the connection was just lost."""
    try:
        return read()
    except Unreached:
        return None


def test_who_is_interrupted_when_ssh_just_stands_is_let_go(
    sshd: Sshd, served: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served
    way = by_ssh.BySsh(Service(address=sshd.address()))
    opened = by_ssh._opened

    def open_and_interrupt(address: SshAddress, over: threading.Event) -> Tunnel:
        tunnel = opened(address, over)
        way.interrupt()
        return tunnel

    monkeypatch.setattr(by_ssh, "_opened", open_and_interrupt)
    try:
        with pytest.raises(Cancelled), way.reach() as reached:
            raise AssertionError(f"{reached} is of no use any more")
    finally:
        way.close()


def test_what_the_users_own_configuration_says_for_shells_is_not_in_the_way(sshd: Sshd, served: Daemon) -> None:
    assert served
    taken = f"LocalForward 127.0.0.1:{sshd.port} 127.0.0.1:1"
    sshd.write_client("RemoteCommand tmux attach", "RequestTTY force", taken, "ExitOnForwardFailure yes")
    assert answers(sshd.address())


def test_ssh_that_drops_at_once_is_tried_until_it_stands(sshd: Sshd, served: Daemon) -> None:
    assert served
    with Client(sshd.address()) as client:
        client.infer("echo.echo", X)
        sshd.configure(f"ForceCommand {script(sshd, 'exit 1')}")
        sshd.cut()
        waits = client.submit("echo.echo", X)
        until(lambda: sshd.logins >= 4, "three more logins", WITHIN_S)
        sshd.configure()
        assert waits.result(WITHIN_S)["x"].tolist() == [0, 1, 2]
