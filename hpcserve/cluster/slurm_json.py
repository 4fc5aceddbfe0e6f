"""What squeue and sacct answer with ``--json``, of any release that has it. No I/O.

The shape differs with the release: up to 23.02 a state is a word and a number a number; since then a state is a list of
words, the base state first and its flags behind it, and a number an object that may say that it is none.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import SlurmJob, still_to_come
from hpcserve.cluster.slurm_text import first_node
from hpcserve.errors import SchedulerError

_NOTHING_FOUND = "Nothing found"


class _Number(msgspec.Struct, frozen=True):
    number: float = 0
    set: bool = False


class _Signal(msgspec.Struct, frozen=True):
    id: int | _Number | None = None
    signal_id: int | None = None  # its name in 22.05


class _Exit(msgspec.Struct, frozen=True):
    return_code: int | _Number | None = None
    signal: _Signal | None = None


class _QueuedJob(msgspec.Struct, frozen=True):
    """Only what is read; a field that is always there has no default, so that something else is not taken for it."""

    job_id: int
    name: str
    job_state: str | tuple[str, ...]
    state_reason: str
    batch_host: str
    exit_code: int | _Exit
    restart_cnt: int
    start_time: int | _Number


class _Error(msgspec.Struct, frozen=True):
    error: str = ""
    description: str = ""


class _Queue(msgspec.Struct, frozen=True):
    jobs: tuple[_QueuedJob, ...]
    errors: tuple[_Error, ...]
    last_update: _Number = _Number()


class _State(msgspec.Struct, frozen=True):
    current: str | tuple[str, ...]


class _PastJob(msgspec.Struct, frozen=True):
    job_id: int
    name: str
    state: _State
    exit_code: _Exit
    nodes: str
    restart_cnt: int = 0  # not in 22.05


class _History(msgspec.Struct, frozen=True):
    jobs: tuple[_PastJob, ...]
    errors: tuple[_Error, ...]


T = TypeVar("T", _Queue, _History)


def parse_queue(stdout: bytes) -> list[SlurmJob]:
    """The jobs in an answer of ``squeue --json``.

    Raises:
        SchedulerError: It is no whole answer, or one that tells of errors.
    """
    answer = _decoded("squeue", stdout, _Queue)
    return [_queued(job, _value(answer.last_update)) for job in answer.jobs]


def parse_history(stdout: bytes) -> list[SlurmJob]:
    """The last run of each job in an answer of ``sacct --json``.

    Raises:
        SchedulerError: It is no whole answer, or one that tells of errors.
    """
    last = {job.job_id: job for job in _decoded("sacct", stdout, _History).jobs}
    return [_past(job) for job in last.values()]


def _decoded(command: str, stdout: bytes, shape: type[T]) -> T:
    try:
        answer = msgspec.json.decode(stdout, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        shown = stdout[:200].decode(errors="replace")
        raise SchedulerError(
            f"cannot read the answer of {command} --json: {error}: {shown!r}; run it by hand and look"
        ) from error
    # 22.05 exits with 0, without a job and with an error in the answer when slurmctld is down.
    told = [error for error in answer.errors if not error.description.startswith(_NOTHING_FOUND)]
    if told:
        said = "; ".join(error.description or error.error for error in told)
        raise SchedulerError(f"{command} --json tells of an error: {said}; is slurmctld up?")
    return answer


def _queued(job: _QueuedJob, now_s: float | None) -> SlurmJob:
    state, flags = _words(job.job_state)
    code, number = _exit(job.exit_code)
    start_s = _value(job.start_time)
    waits = state == "PENDING"
    return SlurmJob(
        job=JobId(str(job.job_id)),
        name=job.name,
        state=state,
        flags=flags,
        reason="" if job.state_reason == "None" else job.state_reason,
        host=job.batch_host,
        exit_code=code,
        signal=number,
        restarts=job.restart_cnt,
        starts_in_s=still_to_come(start_s, now_s) if waits and start_s and now_s is not None else None,
    )


def _past(job: _PastJob) -> SlurmJob:
    state, flags = _words(job.state.current)
    code, number = _exit(job.exit_code)
    return SlurmJob(
        job=JobId(str(job.job_id)),
        name=job.name,
        state=state,
        flags=flags,
        host=first_node(job.nodes),
        exit_code=code,
        signal=number,
        restarts=job.restart_cnt,
    )


def _words(state: str | tuple[str, ...]) -> tuple[str, frozenset[str]]:
    first, *flags = (state,) if isinstance(state, str) else state or ("",)
    return first, frozenset(flags)


def _exit(status: int | _Exit) -> tuple[int | None, int]:
    if isinstance(status, int):  # 22.05's squeue: what wait(2) gave
        number = status & 0x7F
        return (0, number) if number else (status >> 8, 0)
    number = 0
    if status.signal is not None:
        number = int(_value(status.signal.id) or status.signal.signal_id or 0)
    code = 0 if number else _value(status.return_code)
    return None if code is None else int(code), number


def _value(number: int | _Number | None) -> float | None:
    if isinstance(number, _Number):
        return number.number if number.set else None
    return number
