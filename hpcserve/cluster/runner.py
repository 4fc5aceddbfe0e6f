"""Runs one command of a batch scheduler and brings its whole answer, or an error. No scheduler of its own.

A command is a list of words, never a line for a shell. To run one always ends: what has not answered in time is killed
with its whole process group, and so is what nobody waits for any more; what cannot even be killed is left to itself.
What it prints is bounded. Its environment is the daemon's without the variables by which users change what the commands
of a scheduler ask, send or print.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass

from hpcserve.cluster.processes import exit_in_words, signal_group
from hpcserve.errors import SchedulerError

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""More than any scheduler has to say of one user's jobs."""

NICENESS = 10
"""Of the commands that only ask. Source: nice(1), whose default it is."""

KILLED_WITHIN_S = 5.0
"""What was killed and is still there after so long waits for a dead file server, and is not waited for."""

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 64 * 1024
_TERM_GRACE_S = 1.0
_SHOWN_CHARACTERS = 300

# Source: the sections ENVIRONMENT of sbatch(1), squeue(1), sacct(1) and scancel(1): each variable stands for an option,
# and SLURM_JOB_* are left from the job in which the daemon itself may run. SLURM_CONF only says where Slurm is.
_CHANGES_ANSWERS = ("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SRUN_", "SALLOC_")
_KEPT = frozenset({"SLURM_CONF", "SLURM_JWT"})


class Unanswered(SchedulerError):
    """A command was begun and gave no whole answer: what it was to do may be done or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command answered: all that it printed, and its exit code, which is not negative."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: str


class Runner:
    """Runs commands, each in a session of its own.

    Args:
        timeout_s: A command has so long to answer.
        environment: What commands inherit, before it is cleaned; by default that of this process.
        max_bytes: A command may print so much.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._timeout_s = timeout_s
        self._environment = cleaned(os.environ if environment is None else environment)
        self._max_bytes = max_bytes

    async def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        submits: bool = False,
    ) -> Answer:
        """Runs ``argv``, its first word looked up in PATH, and waits for its end.

        Args:
            argv: The command.
            stdin: All that it reads from its standard input.
            environment: Variables for this command alone.
            submits: What the command begins may inherit its locale and its priority, so it gets both as they are.
                Others speak English, and let requests go before them.

        Raises:
            Unanswered: It did not end in time, was killed or printed too much.
            SchedulerError: It could not be started: nothing has happened.
        """
        inherited = self._environment if submits else in_english(self._environment)
        process = await self._start(argv, {**inherited, **(environment or {})})
        if not submits:
            _yield_to_others(process)
        try:
            async with asyncio.timeout(self._timeout_s):
                stdout, stderr = await self._talk(process, stdin)
                code = await process.wait()
        except TimeoutError as error:
            raise Unanswered(
                f"{argv[0]} did not answer within {self._timeout_s:g} s and was killed; is the scheduler up? "
                "Raise scheduler.timeout_s if it is merely slow"
            ) from error
        finally:
            await _end(process, argv)
        return self._whole(argv, code, stdout, stderr)

    async def _start(self, argv: tuple[str, ...], environment: Mapping[str, str]) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
            )
        except FileNotFoundError as error:
            raise SchedulerError(
                f"{argv[0]}: command not found in PATH ({environment.get('PATH', 'not set')}); start the daemon where "
                "the scheduler's commands are found, for instance after the site's `module load` (of a daemon in a "
                "job, pilots.setup is the place for it)"
            ) from error
        except OSError as error:
            raise SchedulerError(
                f"{argv[0]} cannot be run: {error.strerror}; look at the file that PATH finds under this name"
            ) from error

    async def _talk(self, process: Process, stdin: bytes) -> tuple[bytes, bytes]:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.TaskGroup() as group:
            stdout = group.create_task(self._read(process, process.stdout))
            stderr = group.create_task(self._read(process, process.stderr))
            group.create_task(_feed(process, stdin))
        return stdout.result(), stderr.result()

    async def _read(self, process: Process, stream: asyncio.StreamReader) -> bytes:
        """All that comes, or a little more than is allowed, and then the command is dead."""
        read = bytearray()
        while chunk := await stream.read(_CHUNK_BYTES):
            if len(read) > self._max_bytes:
                continue  # to the end: until then asyncio does not say that the process has ended
            read += chunk
            if len(read) > self._max_bytes:
                signal_group(process.pid, signal.SIGKILL)
        return bytes(read)

    def _whole(self, argv: tuple[str, ...], code: int, stdout: bytes, stderr: bytes) -> Answer:
        if max(len(stdout), len(stderr)) > self._max_bytes:
            raise Unanswered(
                f"{argv[0]} printed more than {self._max_bytes} bytes and was killed; run it by hand and look"
            )
        said = stderr.decode(errors="replace").strip()
        if code < 0:
            raise Unanswered(
                f"{argv[0]} was {exit_in_words(code)}{_after(said)}; somebody or the system's limits ended it, "
                "and it will be asked again"
            )
        return Answer(argv=argv, exit_code=code, stdout=stdout, stderr=said)


def cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what changes the scheduler's answers."""
    return {
        name: value for name, value in environment.items() if name in _KEPT or not name.startswith(_CHANGES_ANSWERS)
    }


def in_english(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` in which programs print no translations."""
    return {**environment, "LC_ALL": "C"}


def failure(answer: Answer) -> SchedulerError:
    """The error for an answer with an exit code that means none."""
    return SchedulerError(f"{answer.argv[0]} failed with exit code {answer.exit_code}{_after(answer.stderr)}")


def _yield_to_others(process: Process) -> None:
    """Requests go before the scheduler's answers, which take a processor for long where many jobs are queued.

    What is submitted would inherit it, with PropagatePrioProcess of slurm.conf for example.
    """
    with contextlib.suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)


async def _feed(process: Process, stdin: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(stdin)
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # it ended before it had read all; its exit code says why
    finally:
        process.stdin.close()


async def _end(process: Process, argv: tuple[str, ...]) -> None:
    """Leaves nothing behind of the command, kindly first; also where the caller was cancelled."""
    if process.returncode is None:
        signal_group(process.pid, signal.SIGTERM)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TERM_GRACE_S):
                    await _gone(process)
        finally:
            # What a wrapper started holds the group, so its number is not given to others before this.
            signal_group(process.pid, signal.SIGKILL)
            try:
                async with asyncio.timeout(KILLED_WITHIN_S):
                    await _gone(process)
            except TimeoutError:
                _log.warning("%s was killed and does not end (pid %d); is a file system away?", argv[0], process.pid)


async def _gone(process: Process) -> None:
    """Waits for the end. It is told once all output was read, and so nothing may stay unread."""
    assert process.stdout is not None
    assert process.stderr is not None
    await asyncio.gather(process.wait(), _discard(process.stdout), _discard(process.stderr))


async def _discard(stream: asyncio.StreamReader) -> None:
    while await stream.read(_CHUNK_BYTES):
        pass


def _after(said: str) -> str:
    return f": {said[-_SHOWN_CHARACTERS:]}" if said else ""
