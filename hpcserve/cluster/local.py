"""Scheduler ``local``: a pilot job is a child process of the controller, in a session of its own.

A job outlives the controller. What is known of it stands in a file, so the next controller, which is not
its parent, finds it again, sees it end and can cancel it. Three things make that safe:

* a job's shell waits for a word on its standard input before it runs anything, and gets it only after the
  job's record is on disk: no job ever runs unrecorded;
* the record holds the boot id and the process's start time, so a later process with the same pid is not
  taken for the job;
* the shell writes the exit code to a file, since only a parent could ask the kernel for it.

The walltime is kept here, in :meth:`LocalScheduler.poll`; an agent keeps its own as well.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from hpcserve.cluster.processes import boot_id, exit_in_words, reap, signal_group, spawn, start_time
from hpcserve.cluster.seam import JobEnd, JobId, JobState, PilotJob
from hpcserve.errors import JobRefused
from hpcserve.types import PilotId

KEEP_ENDED_S = 24 * 3600.0
"""How long the file of an ended job stays, at most."""

_SHELL_SIGNALLED = 128
_CANCELLED = "cancelled"

# Arguments: the file for the exit code, the directory to start in, the command. A trap, unlike an ignored
# signal, is not inherited by the command, and lets the shell live on to write down how the command ended.
_SHELL = """\
trap : TERM INT HUP
read -r go || exit 125
cd "$1" || exit 125
shift
"$@" </dev/null
code=$?
echo "$code" >"$0.part" && mv "$0.part" "$0"
exit "$code"
"""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is on disk about one job. Times are this boot's monotonic seconds."""

    pilot: PilotId
    pid: int
    start_time: str
    boot_id: str
    started_s: float
    walltime_s: float
    stop_cause: str = ""
    stopped_s: float | None = None
    ended: bool = False
    exit_code: int | None = None
    cause: str = ""


class LocalScheduler:
    """Runs pilot jobs as processes of this machine.

    Args:
        directory: Where the jobs' files are; made with mode 0700.
        cancel_grace_s: Between SIGTERM and SIGKILL. More than an agent needs to stop its replicas.
        keep_ended: So many ended jobs are remembered, the last ones.
        clock: Monotonic seconds, the same in every process since the machine was started.
    """

    def __init__(
        self,
        directory: Path,
        *,
        cancel_grace_s: float = 15.0,
        keep_ended: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self.cancel_grace_s = cancel_grace_s
        self._keep_ended = keep_ended
        self._clock = clock
        self._boot_id = boot_id()
        self._host = socket.gethostname()
        self._children: set[JobId] = set()
        self._records: dict[JobId, Record] = {}
        self._unreadable: dict[JobId, str] = {}
        self._load()

    async def submit(self, job: PilotJob) -> JobId:
        """Starts the job at once.

        Raises:
            JobRefused: The process cannot be started or its record not be written.
        """
        name = JobId(f"{job.pilot}.{secrets.token_hex(4)}")
        try:
            self._start(name, job)
        except OSError as error:
            raise JobRefused(
                f"cannot start pilot job {job.pilot}: {error}; look at the disk and the process limits of "
                f"{self._directory}"
            ) from error
        return name

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        """The state of ``jobs``. Reaps, keeps walltimes and carries cancellations on, for all jobs."""
        for name in list(self._records):
            self._tend(name)
        self._forget(but=jobs)
        return {name: self._state(name) for name in jobs}

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        """All jobs on record: the directory is one service's."""
        return {name: record.pilot for name, record in self._records.items()}

    async def cancel(self, job: JobId) -> None:
        """SIGTERM to the job's process group; SIGKILL follows in a later :meth:`poll`."""
        if job in self._records:
            self._tend(job)
            record = self._records[job]
            if not record.ended and record.stopped_s is None:
                self._stop(job, record, _CANCELLED)

    def retry_now(self) -> None:
        """Nothing: this scheduler always answers."""

    async def close(self) -> None:
        """Nothing is held open."""

    def _start(self, name: JobId, job: PilotJob) -> None:
        job.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        wait, go = os.pipe()
        try:
            pid = spawn(
                ("/bin/sh", "-c", _SHELL, str(self._exit_file(name)), str(job.directory), *job.argv),
                environment=os.environ,
                stdin=wait,
                stdout=log,
                stderr=log,
            )
            self._let_go(name, self._new_record(job, pid), go)
        finally:
            for descriptor in (log, wait, go):
                os.close(descriptor)

    def _let_go(self, name: JobId, record: Record, go: int) -> None:
        """Records the shell that waits, then gives it the word; if that fails it never runs anything."""
        try:
            self._write(name, record)
            os.write(go, b"go\n")
        except OSError:
            signal_group(record.pid, signal.SIGKILL)
            os.waitpid(record.pid, 0)
            self._record_file(name).unlink(missing_ok=True)
            raise
        self._children.add(name)
        self._records[name] = record

    def _new_record(self, job: PilotJob, pid: int) -> Record:
        return Record(
            pilot=job.pilot,
            pid=pid,
            # A child that has not been reaped keeps its pid, so this is its own start time or, dead, none.
            start_time=start_time(pid) or "",
            boot_id=self._boot_id,
            started_s=self._clock(),
            walltime_s=job.walltime_s,
        )

    def _tend(self, name: JobId) -> None:
        """Finds out whether the job has ended. Only a job that was just seen alive may be signalled."""
        record = self._records[name]
        if record.ended:
            return
        now = self._clock()
        ended, code = self._how_it_ended(name, record)
        if ended:
            self._children.discard(name)
            cause = record.stop_cause or self._cause(record, code)
            del self._records[name]  # it comes back as the last one, for _forget
            self._update(name, msgspec.structs.replace(record, ended=True, exit_code=code, cause=cause))
        elif record.stopped_s is not None:
            if now >= record.stopped_s + self.cancel_grace_s:
                signal_group(record.pid, signal.SIGKILL)
        elif now >= record.started_s + record.walltime_s:
            self._stop(name, record, f"its walltime of {record.walltime_s:g} s is used up")

    def _how_it_ended(self, name: JobId, record: Record) -> tuple[bool, int | None]:
        """(it has ended, its exit code if known)."""
        if name in self._children:
            code = reap(record.pid)
            return code is not None, _signal_restored(code)
        if record.boot_id == self._boot_id and start_time(record.pid) == record.start_time:
            return False, None
        try:
            return True, _signal_restored(int(self._exit_file(name).read_text()))
        except FileNotFoundError:
            return True, None

    def _cause(self, record: Record, code: int | None) -> str:
        if code is not None:
            return exit_in_words(code)
        if record.boot_id != self._boot_id:
            return "the machine was restarted"
        return "ended without an exit code: killed with its whole process group while no controller ran"

    def _stop(self, name: JobId, record: Record, cause: str) -> None:
        signal_group(record.pid, signal.SIGTERM)
        self._update(name, msgspec.structs.replace(record, stop_cause=cause, stopped_s=self._clock()))

    def _state(self, name: JobId) -> JobState:
        if name in self._unreadable:
            return JobState(phase="unknown", cause=self._unreadable[name])
        record = self._records.get(name)
        if record is None:
            cause = f"job {name} has no record in {self._directory}: it never ran"
            return JobState(phase="ended", end="never started", cause=cause)
        if record.ended:
            end = _end(record)
            return JobState(phase="ended", end=end, cause=record.cause, exit_code=record.exit_code, host=self._host)
        return JobState(phase="running", host=self._host)

    def _forget(self, *, but: Collection[JobId]) -> None:
        """Forgets the ended jobs that ended first, of those that nobody asks for."""
        ended = [name for name, record in self._records.items() if record.ended]
        for name in ended[: max(0, len(ended) - self._keep_ended)]:
            if name not in but:
                del self._records[name]
                self._remove(name)

    def _remove(self, name: JobId) -> None:
        self._record_file(name).unlink(missing_ok=True)
        self._exit_file(name).unlink(missing_ok=True)

    def _exit_file(self, name: JobId) -> Path:
        return self._directory / f"{name}.exit"

    def _record_file(self, name: JobId) -> Path:
        return self._directory / f"{name}.json"

    def _update(self, name: JobId, record: Record) -> None:
        self._records[name] = record
        with contextlib.suppress(OSError):  # a full disk: the next controller finds the same out by itself
            self._write(name, record)

    def _write(self, name: JobId, record: Record) -> None:
        path = self._record_file(name)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(msgspec.json.encode(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _load(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._directory.glob("*.json"), key=lambda path: (path.stat().st_mtime, path)):
            name = JobId(path.stem)
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            except (OSError, msgspec.MsgspecError) as error:
                self._unreadable[name] = f"cannot read {path}: {error}"
                continue
            if record.ended and path.stat().st_mtime < time.time() - KEEP_ENDED_S:
                self._remove(name)
            else:
                self._records[name] = record


def _end(record: Record) -> JobEnd:
    if record.stop_cause:
        return "cancelled" if record.stop_cause == _CANCELLED else "walltime"
    return "completed" if record.exit_code == 0 else "failed"


def _signal_restored(code: int | None) -> int | None:
    """A shell says 128 + n when signal n ended the command; −n is said everywhere else here."""
    return _SHELL_SIGNALLED - code if code is not None and code > _SHELL_SIGNALLED else code
