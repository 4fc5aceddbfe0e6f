"""A real sshd for one test: its own host key, its own authorized key, its own configuration, on loopback alone.

Each connection is served by an ``sshd -i`` of its own, behind a socket of ours: so the system chooses the port, and a
connection can be cut, or held up. The client's ``ssh`` is the real one, with a configuration that knows this sshd and
nothing else: a script on the PATH adds it, since ssh finds the user's own by the password database.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "/usr/sbin/sshd"
SSH = shutil.which("ssh") or "/usr/bin/ssh"
HPCSERVE = str(Path(sys.executable).with_name("hpcserve"))


class Sshd:
    """An sshd, and the laptop that knows it.

    Args:
        place: An empty directory.
        environment: What logins there have in their environment.
        options: Lines of sshd_config, before which come those of all tests.

    Attributes:
        laptop: The directory to put before the PATH of a client.
        logins: How many connections there were.
    """

    def __init__(self, place: Path, environment: dict[str, str], *options: str) -> None:
        self.place = place
        self.laptop = place / "laptop"
        self.laptop.mkdir(parents=True)
        self.logins = 0
        self._going: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        for name in ("host_key", "user_key"):
            _make_key(place / name)
        (place / "authorized_keys").write_bytes((place / "user_key.pub").read_bytes())
        # A daemon's own processes are known by a variable that what runs for its clients does not have.
        self._environment = {name: value for name, value in environment.items() if name.startswith("HPCSERVE_")}
        self.configure(*options)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.know_host()
        self.write_client()
        if os.geteuid() == 0:  # its unprivileged half changes its root to there; a service manager makes it otherwise
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    # --- what it is like ----------------------------------------------------------------------------------

    def configure(self, *options: str) -> None:
        """Writes sshd_config; of two lines for one keyword the first one counts."""
        variables = " ".join(f"{name}={value}" for name, value in self._environment.items())
        lines = [
            *options,
            f"SetEnv {variables}",
            f"HostKey {self.place / 'host_key'}",
            f"AuthorizedKeysFile {self.place / 'authorized_keys'}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",  # /tmp is everybody's
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin yes",
            "PrintMotd no",
        ]
        written = self.place / "sshd_config.new"
        written.write_text("".join(f"{line}\n" for line in lines))
        written.replace(self.place / "sshd_config")  # an sshd that begins just now reads the one or the other

    def know_host(self) -> None:
        """Has the laptop know the host key."""
        key = (self.place / "host_key.pub").read_text()
        (self.place / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")

    def new_host_key(self) -> None:
        """Gives sshd another host key than the laptop knows."""
        for name in ("host_key", "host_key.pub"):
            (self.place / name).unlink()
        _make_key(self.place / "host_key")

    def write_client(self, *options: str) -> None:
        """Writes the laptop's ssh_config and its ``ssh``."""
        lines = [
            *options,
            f"IdentityFile {self.place / 'user_key'}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {self.place / 'known_hosts'}",
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
        ]
        (self.place / "ssh_config").write_text("".join(f"{line}\n" for line in lines))
        script = self.laptop / "ssh"
        script.write_text(f'#!/bin/sh\nexec {SSH} -F {shlex.quote(str(self.place / "ssh_config"))} "$@"\n')
        script.chmod(0o755)

    def far_sides(self) -> list[int]:
        """The pids of what runs there for clients."""
        marks = {f"{name}={value}".encode() for name, value in self._environment.items()}
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and marks <= set((entry / "environ").read_bytes().split(b"\0")):
                    found += [int(entry.name)] if b"\0connect" in (entry / "cmdline").read_bytes() else []
        return found

    def address(self, command: str = HPCSERVE, place: str = "") -> str:
        """The service's address."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{place}?command={command}"

    def home_with_key(self, key: Path) -> Path:
        """An hpcserve directory of the laptop with this client's key, as one that its owner has copied there."""
        home = self.place / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / key.name).touch(mode=0o600)
        (home / key.name).write_bytes(key.read_bytes())
        return home

    @property
    def path(self) -> str:
        """The PATH of a client."""
        return f"{self.laptop}:{os.environ['PATH']}"

    # --- its connections ----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Ends all connections, as a network that fails does: sshd's processes are killed."""
        with self._lock:
            going, self._going = self._going, []
        for process in going:
            process.kill()
        for process in going:
            process.wait()

    def close(self) -> None:
        """Ends it, and all of its connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, self._lock:
                self.logins += 1
                self._going = [each for each in self._going if each.poll() is None]
                with (self.place / "sshd.log").open("ab") as log:
                    process = subprocess.Popen(
                        [SSHD, "-i", "-e", "-f", str(self.place / "sshd_config")],
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        stderr=log,
                    )
                self._going.append(process)

    def log(self) -> str:
        """What sshd has said."""
        return (self.place / "sshd.log").read_text(errors="replace")


def missing() -> str:
    """What this machine lacks for an sshd; empty where it has all."""
    lacking = [each for each in (SSHD, SSH) if not Path(each).exists()]
    return f"{' and '.join(lacking)} is not here; on Debian, as root: tests/system-packages" if lacking else ""


@contextlib.contextmanager
def sshd_in(place: Path, environment: dict[str, str], *options: str) -> Iterator[Sshd]:
    """An sshd for a while."""
    lacking = missing()
    if lacking and "CI" not in os.environ:
        pytest.skip(lacking)
    made = Sshd(place, environment, *options)
    try:
        yield made
    finally:
        made.close()


def children(name: str) -> list[int]:
    """Our own children of this name that live."""
    pids = {pid for each in Path("/proc/self/task").glob("*/children") for pid in each.read_text().split()}
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            called, _, state = (Path("/proc") / pid / "stat").read_text().partition("(")[2].rpartition(")")
            found += [int(pid)] if called == name and state.split()[0] not in "ZX" else []
    return found


def _make_key(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, stdin=subprocess.DEVNULL
    )
