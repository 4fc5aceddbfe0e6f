"""A node: namespaces of its own with an address, a munged and a power cord; a compute node has a slurmd."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.facility.box.errors import BoxError
from tests.facility.box.files import address_of, is_login
from tests.facility.box.host import PATIENCE_S, Host, until
from tests.facility.box.keeper import INIT, NEW_NAMESPACES, init_of

FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"

_BOOT = """
hostname {name}
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs {directory}/private
mkdir {directory}/private/tmp
ip link set lo up
ip link set {interface} up
"""


class Node:
    """A compute node, or a login node that is not the first.

    Args:
        name: Its name.
        login: The host that holds its cable and starts it.
        directory: The box's.
    """

    def __init__(self, name: str, login: Host, directory: Path) -> None:
        self.name = name
        # One site file must do for all login nodes.
        self._interface = "switch" if is_login(name) else "eth0"
        self._login = login
        self._directory = directory
        self._host: Host | None = None
        self._unshare: subprocess.Popen[str] | None = None
        self._cable = ""

    @property
    def host(self) -> Host:
        """Where commands are run.

        Raises:
            BoxError: The node is off.
        """
        if self._host is None:
            raise BoxError(f"{self.name} is off; power_on it first")
        return self._host

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._host is not None

    def boot(self) -> None:
        """Gives it namespaces, a cable and a munged."""
        if self._host is not None:
            raise BoxError(f"{self.name} is on already")
        # Not to our standard error: unshare of util-linux 2.38 takes a killed init for an error of its own.
        self._unshare = self._login.start_daemon([*NEW_NAMESPACES, *INIT])
        host = Host(self.name, self._init(), self._directory)
        self._cable = self._new_cable()
        self._login.run(["sh", "-ec", self._plug_in(host)])
        host.run(["sh", "-ec", self._boot()])
        start_munged(host, self._directory)
        self._host = host

    def _boot(self) -> str:
        return _BOOT.format(name=self.name, interface=self._interface, directory=self._directory)

    def _init(self) -> int:
        assert self._unshare is not None, "it boots"
        try:
            return init_of(self._unshare.pid)
        except TimeoutError as error:
            raise BoxError(f"{self.name} does not boot: {error}; see {self._login.output_of('unshare')}") from error

    def _new_cable(self) -> str:
        """A name of its own: the kernel takes its time with the old cable of a node that has lost its power."""
        note = self._directory / "run" / f"{self.name}.cable"
        boots = int(note.read_text().rpartition("-")[2]) if note.exists() else 0
        return f"{self.name}-{boots + 1}"

    def _plug_in(self, host: Host) -> str:
        pid = self._pid_seen_from_login(host)
        run = self._directory / "run" / self.name
        return f"""
ip link add {self._cable} type veth peer name {self._interface} netns {pid}
ip link set {self._cable} master switch up
nsenter --net=/proc/{pid}/ns/net ip addr add {address_of(self.name)}/24 dev {self._interface}
echo {pid} > {run}.pid
echo {self._cable} > {run}.cable
"""

    @staticmethod
    def _pid_seen_from_login(host: Host) -> int:
        """NSpid lists a process's pid in each namespace, ours first; the node's own is the last."""
        status = Path(f"/proc/{host.init}/status").read_text()
        pids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
        return int(pids[-2])

    def start_slurmd(self) -> None:
        """Lets it join the cluster."""
        self.host.start_daemon(["slurmd", "-D", "-N", self.name])

    def power_off(self) -> None:
        """Pulls the cord: everything on it is gone at once, and nobody is told."""
        host = self.host
        # Dying processes would still close their connections, as no machine without power does.
        self.cut()
        os.kill(host.init, signal.SIGKILL)
        assert self._unshare is not None, "it has booted"
        host.forget()
        self._unshare.wait(PATIENCE_S)
        self._host = None

    def cut(self) -> None:
        """Takes its cable out of the switch."""
        self._login.run(["ip", "link", "set", self._cable, "nomaster"])

    def mend(self) -> None:
        """Puts the cable back."""
        self._login.run(["ip", "link", "set", self._cable, "master", "switch"])

    def skew_clock(self, seconds: int) -> None:
        """The clock of all jobs' processes that begin here from now on is wrong by so much; 0: it is right.

        The daemons keep the true time: a slurmd that is wrong by more than two minutes starts no job anywhere.

        Raises:
            BoxError: libfaketime is not installed.
        """
        clock = self._directory / "clock" / self.name
        if seconds == 0:
            clock.unlink(missing_ok=True)
            return
        libraries = sorted(str(each) for each in Path("/").glob(FAKETIME.lstrip("/")))
        if not libraries:
            raise BoxError(f"no {FAKETIME} on this machine; on Debian: apt-get install faketime")
        variables = {"LD_PRELOAD": libraries[0], "FAKETIME": f"{seconds:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        clock.write_text("".join(f"export {name}={value}\n" for name, value in variables.items()))


def start_munged(host: Host, directory: Path) -> None:
    """A munged of the host's own: one that sees a credential twice takes it for a replay."""
    private = directory / "private"
    host.start_daemon(
        [
            "munged",
            "--foreground",
            "--force",
            f"--key-file={directory}/munge/munge.key",
            f"--socket={private}/munge.sock",
            f"--pid-file={private}/munged.pid",
            f"--seed-file={private}/munged.seed",
            f"--log-file={directory}/log/munged-{host.name}.log",
        ]
    )
    socket = Path(f"/proc/{host.init}/root{private}/munge.sock")
    until(socket.exists, f"the munged of {host.name}; see {host.output_of('munged')}")
