"""One host of a box, the login node or a compute node: its namespaces, and what runs there."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.facility.box.errors import BoxError
from tests.facility.box.namespaces import Stream, start_in

PATIENCE_S = 30.0
FOREIGN = ("SLURM", "SBATCH_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "MUNGE", "MYSQL_")
"""Variables of a real cluster that the tests themselves may run on."""


def until(condition: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Waits for a condition, which most often takes a command: it is asked more seldom the longer it lasts.

    Raises:
        BoxError: It did not come true.
    """
    began = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began
        if waited_s > within_s:
            raise BoxError(f"not within {within_s:g} s: {what}")
        time.sleep(min(max(0.02, waited_s / 10), 0.2))


class Host:
    """A host whose first process has the pid ``init``, as the machine outside counts.

    Args:
        name: Its host name.
        init: When this process is killed, everything on the host is gone.
        directory: The box's.
    """

    def __init__(self, name: str, init: int, directory: Path) -> None:
        self.name = name
        self.init = init
        self._directory = directory
        self._started: list[subprocess.Popen[str]] = []

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a command of the user gets: this process's own variables, and where Slurm is."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        # Daemons live in sbin, which is not on every root's path.
        ours["PATH"] = f"{ours.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin:{self._directory}/bin"
        return {**ours, "SLURM_CONF": str(self._directory / "etc" / "slurm.conf"), **(more or {})}

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        own_session: bool = True,
    ) -> subprocess.Popen[str]:
        """Starts a command here; it ends with the host at the latest.

        Raises:
            BoxError: The host lives no more.
        """
        try:
            process = start_in(
                self.init,
                argv,
                env=self.environment(env),
                cwd=cwd or Path.cwd(),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                own_session=own_session,
            )
        except OSError as error:
            # A namespace whose init is dead has no room for a process: ENOMEM.
            raise BoxError(f"{self.name}: cannot start {argv[0]}: {error}; was its power taken?") from error
        self._started = [each for each in self._started if each.poll() is None]
        self._started.append(process)
        return process

    def start_daemon(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts a program that stays; what it says goes to ``log/PROGRAM-HOST.out``."""
        with self.output_of(argv[0]).open("a") as output:
            return self.start(argv, env=env, cwd=Path("/"), stdout=output.fileno(), stderr=output.fileno())

    def output_of(self, program: str) -> Path:
        """The file with what a daemon said outside its own log."""
        return self._directory / "log" / f"{program}-{self.name}.out"

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = PATIENCE_S,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        text: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command here to its end; ``text`` is its standard input.

        Raises:
            BoxError: It failed, and ``check`` is set.
            subprocess.TimeoutExpired: It was killed after ``timeout_s``.
        """
        pipe = subprocess.PIPE
        process = self.start(argv, env=env, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            out, err = process.communicate(text or "", timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if check and process.returncode:
            raise BoxError(f"{self.name}: {' '.join(argv)}: exit {process.returncode}: {(err or out).strip()}")
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def forget(self) -> None:
        """Waits for everything that was started here, after the init was killed."""
        for process in self._started:
            process.wait(PATIENCE_S)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self._started.clear()
