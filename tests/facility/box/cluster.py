"""A real Slurm on this machine, in namespaces of its own: login nodes, compute nodes, accounting.

Everything is inside one network, mount, pid, host-name and IPC namespace that ends with whoever started it. The file
system is this machine's: below the box's directory, and elsewhere, all nodes see the same files. Only ``private``,
``/proc`` and ``/dev/shm`` are each node's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.facility.box.accounting import Accounting
from tests.facility.box.errors import BoxError
from tests.facility.box.files import LOGIN, PROJECT, address_of, is_login, logins, nodes, write_all
from tests.facility.box.host import PATIENCE_S, Host, until
from tests.facility.box.namespaces import Stream, network_of
from tests.facility.box.node import Node, start_munged
from tests.facility.box.options import GPUS_PER_NODE, Options

_SETTLE = """
hostname {login}
mount --bind {directory}/etc/hosts /etc/hosts
for each in private database state {made}; do
    mkdir -p {directory}/$each
done
mount -t tmpfs tmpfs {directory}/private
mount -t tmpfs tmpfs {directory}/database
mount -t tmpfs tmpfs {directory}/state
mkdir {directory}/private/tmp
ip link set lo up
# slurmdbd writes a message in two parts, and the second one would wait for a delayed acknowledgement: 40 ms each.
ip route change local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1 quickack 1
ip link add switch type bridge
ip addr add {address}/24 dev switch
ip link set switch up
"""


class Box:
    """A cluster of one's own, to be used with ``with``.

    Args:
        options: What can be chosen; None: four nodes, and every limit enforced.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.directory = Path(tempfile.mkdtemp(prefix="hpcserve-box-"))
        """The box's own, on the file system that all nodes see; gone with the box."""
        self._keeper: subprocess.Popen[str] | None = None
        self._login: Host | None = None
        self._nodes: dict[str, Node] = {}
        self._accounting: Accounting | None = None
        self._slurmctld: subprocess.Popen[str] | None = None
        self._saves = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # --- as a whole -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Brings everything up; returns when all nodes are idle.

        Raises:
            BoxError: Some part of it does not come up.
        """
        self.directory.chmod(0o755)
        login = self._login = Host(LOGIN, self._start_keeper(), self.directory)
        self._furnish(login)
        accounting = self._accounting = Accounting(login, self.directory)
        accounting.begin()
        start_munged(login, self.directory)
        for name in (*logins(self.options)[1:], *nodes(self.options)):
            node = self._nodes[name] = Node(name, login, self.directory)
            node.boot()
        accounting.finish()
        self.start_slurmctld()
        for name in nodes(self.options):
            self._nodes[name].start_slurmd()
        self.wait_idle()

    def stop(self) -> None:
        """Takes everything down at once; nothing of it is left. May be called twice."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        with keeper:
            assert keeper.stdin is not None, "a pipe"
            keeper.stdin.close()
            # The kernel ends a pid namespace only when each member is buried, by its own parent.
            for node in self._nodes.values():
                if node.is_on:
                    node.host.forget()
            if self._login is not None:
                self._login.forget()

    def _start_keeper(self) -> int:
        """The pid of the box's init."""
        pipe = subprocess.PIPE
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.facility.box.keeper", str(self.directory)],
            cwd=PROJECT,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )
        assert self._keeper.stdout is not None, "a pipe"
        said = self._keeper.stdout.readline()
        if not said:
            _, why = self._keeper.communicate()
            raise BoxError(f"no namespaces: {why.strip()}")
        return int(said)

    def _furnish(self, login: Host) -> None:
        for name in ("log", "run", "munge", "spool", "clock"):
            (self.directory / name).mkdir()
        (self.directory / "munge").chmod(0o700)
        key = self.directory / "munge" / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(1024))
        write_all(self.directory, self.options)
        values = {"directory": self.directory, "login": LOGIN, "address": address_of(LOGIN)}
        made = [*self.options.sized_mib, *self.options.disks_mib]
        script = [_SETTLE.format(made=" ".join(made), **values)]
        script += [
            f"mount -t tmpfs -o size={size_mib}m tmpfs {self.directory}/{name}"
            for name, size_mib in self.options.sized_mib.items()
        ]
        script += [
            f"truncate -s {size_mib}M {self.directory}/{name}.disk && mkfs.ext4 -q {self.directory}/{name}.disk\n"
            f"mount -o loop {self.directory}/{name}.disk {self.directory}/{name}"
            for name, size_mib in self.options.disks_mib.items()
        ]
        script += [f"mknod {self.directory}/run/nvidia{index} c 1 3" for index in range(GPUS_PER_NODE)]
        login.run(["sh", "-ec", "\n".join(script)])

    def wait_idle(self, within_s: float = PATIENCE_S) -> None:
        """Waits until all nodes are idle.

        Raises:
            BoxError: They are not.
        """
        ask = ["sinfo", "--noheader", "--partition=batch", "--format=%t %D"]
        idle = f"idle {self.options.nodes}"
        until(lambda: self._ask(ask) == idle, f"sinfo says {idle!r}; see {self.directory}/log", within_s)

    def _ask(self, argv: Sequence[str]) -> str:
        try:
            return self.run(LOGIN, argv, timeout_s=3.0, check=False).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    # --- commands ---------------------------------------------------------------------------------------

    def host(self, name: str) -> Host:
        """The host of this name, ``login``, ``login2``, … or ``node1``, …

        Raises:
            BoxError: There is none, or it is off.
        """
        if name == LOGIN and self._login is not None:
            return self._login
        return self._node(name).host

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float = PATIENCE_S,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host, to its end; ``env`` comes on top of the variables of this process.

        Raises:
            BoxError: It failed, and ``check`` is set.
            subprocess.TimeoutExpired: It was killed after ``timeout_s``.
        """
        return self.host(host).run(argv, timeout_s=timeout_s, env=env, check=check)

    def spawn(
        self,
        host: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Starts a command on a host. Signals and the exit code are the command's own."""
        return self.host(host).start(argv, env=env, stdin=stdin, stdout=stdout, stderr=stderr)

    @contextmanager
    def enter_network(self, host: str = LOGIN) -> Iterator[None]:
        """The calling thread is on a login node's network, with its host name, as is each thread that it starts."""
        with network_of(self.host(host).init):
            yield

    def seen(self, path: Path, host: str = LOGIN) -> Path:
        """The path by which this process sees a file of a host, one of a ``sized_mib`` directory for example."""
        return Path(f"/proc/{self.host(host).init}/root{path}")

    # --- bad days ---------------------------------------------------------------------------------------

    def _node(self, name: str) -> Node:
        if name not in self._nodes:
            raise BoxError(f"no host {name!r}; known: {LOGIN}, {', '.join(self._nodes)}")
        return self._nodes[name]

    def power_off(self, node: str) -> None:
        """Everything on the node is gone at once; nobody is told, and no connection is closed."""
        self._node(node).power_off()

    def power_on(self, node: str) -> None:
        """Boots the node, and lets it join the cluster."""
        self._node(node).boot()
        if not is_login(node):
            self._node(node).start_slurmd()

    def cut(self, node: str) -> None:
        """Nothing comes from the node any more, nothing reaches it; it goes on."""
        self._node(node).cut()

    def mend(self, node: str) -> None:
        """Connects it again."""
        self._node(node).mend()

    @contextmanager
    def frozen(self, disk: str) -> Iterator[None]:
        """For a while, who writes to this disk waits, on all nodes, and not even SIGKILL ends that; reading goes on.

        Raises:
            BoxError: It cannot be frozen.
        """
        place = self.directory / disk
        script = f"fsfreeze --freeze {place}; echo; cat; fsfreeze --unfreeze {place}"
        # Only in the box's mount namespace: however the tests and the box end, its pipe ends, and it thaws.
        thaws = subprocess.Popen(
            ["nsenter", f"--target={self.host(LOGIN).init}", "--mount", "--", "sh", "-ec", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        with thaws:
            assert thaws.stdout is not None, "a pipe"
            if not thaws.stdout.readline():
                raise BoxError(f"{place} cannot be frozen")
            yield

    def skew_clock(self, node: str, seconds: int) -> None:
        """See :meth:`tests.facility.box.node.Node.skew_clock`."""
        self._node(node).skew_clock(seconds)

    def delay_jobs(self, seconds: float) -> None:
        """The first process of each job that begins from now on comes so late; its walltime runs meanwhile."""
        (self.directory / "clock" / "prolog").write_text(f"{seconds:g}\n")

    def partition_down(self, name: str) -> None:
        """No job of the partition begins any more."""
        self.run(LOGIN, ["scontrol", "update", f"PartitionName={name}", "State=DOWN"])

    def partition_up(self, name: str) -> None:
        """Its jobs may begin again."""
        self.run(LOGIN, ["scontrol", "update", f"PartitionName={name}", "State=UP"])

    # --- the controller and the accounting ---------------------------------------------------------------

    def start_slurmctld(self) -> None:
        """Starts slurmctld and waits until it answers."""
        self._slurmctld = self.host(LOGIN).start_daemon(["slurmctld", "-D"])
        until(lambda: "UP" in self._ask(["scontrol", "ping"]), f"slurmctld answers; see {self.directory}/log")

    def kill_slurmctld(self) -> None:
        """Kills it; nobody answers ``squeue`` any more.

        What it had not yet saved it forgets: for up to five seconds, even jobs. See :meth:`wait_saved`.
        """
        slurmctld = self._running_slurmctld()
        slurmctld.kill()
        slurmctld.wait()

    def wait_saved(self, *jobs: str) -> None:
        """Waits until slurmctld has saved all that it knows about these jobs."""
        # A file that is newer may have been begun before: it has to hold the last of the marks.
        self._saves += 1
        mark = f"saved-{self._saves}."
        for job in jobs:
            self.run(LOGIN, ["scontrol", "update", f"JobId={job}", f"Comment={mark}{job}."])
        saved = self.seen(self.directory / "state" / "job_state")
        last = f"{mark}{jobs[-1]}.".encode()
        until(lambda: saved.exists() and last in saved.read_bytes(), f"slurmctld saves jobs {', '.join(jobs)}")

    def freeze_slurmctld(self) -> None:
        """It takes connections and answers nothing."""
        self._running_slurmctld().send_signal(signal.SIGSTOP)

    def thaw_slurmctld(self) -> None:
        """It answers again."""
        self._running_slurmctld().send_signal(signal.SIGCONT)

    def _running_slurmctld(self) -> subprocess.Popen[str]:
        if self._slurmctld is None or self._slurmctld.poll() is not None:
            raise BoxError("slurmctld does not run")
        return self._slurmctld

    def stop_slurmdbd(self) -> None:
        """``sacct`` and ``sacctmgr`` fail; jobs go on."""
        self._books().stop_slurmdbd()

    def start_slurmdbd(self) -> None:
        """The accounting is back."""
        self._books().start_slurmdbd()

    def _books(self) -> Accounting:
        if self._accounting is None:
            raise BoxError("the box was not started")
        return self._accounting
