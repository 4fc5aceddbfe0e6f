"""What squeue and sacct print as text: the formats that are asked for, and how an answer in them is read. No I/O.

squeue prints records of one fixed length, so neither a separator nor a line's end in a job's name can break one, and
an answer that broke off shows. sacct prints a line a run, and is not asked for names. What does not have the form is
an error: an unreadable answer must never look like an answer without jobs.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator

from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import SlurmJob, still_to_come
from hpcserve.errors import SchedulerError

# Source: squeue(1), --Format; each with its width in bytes. What is longer is cut, which no field but a reason or
# somebody else's name can be. The widths are printed as given by 22.05, in bytes, also where a name is not ASCII.
_COLUMNS = {
    "JobID": 20,
    "State": 20,
    "RestartCnt": 10,
    "exit_code": 12,
    "BatchHost": 128,
    "StartTime": 20,
    "Reason": 128,
    "Name": 128,
}
QUEUE_FORMAT = ",".join(f"{column}:{width}|" for column, width in _COLUMNS.items())
_RECORD = re.compile(
    b"".join(rb"(.{%d})\|" % width for width in _COLUMNS.values()) + rb"\n",
    re.DOTALL,
)
_RECORD_BYTES = sum(_COLUMNS.values()) + len(_COLUMNS) + 1

# Source: sacct(1), --format. None of these can hold the separator or the end of a line.
HISTORY_FORMAT = "JobIDRaw,State,ExitCode,NodeList"
_LINE = re.compile(r"(\d+)\|([A-Z_]+)(?: by (\d+))?\|(\d+):(\d+)\|([^|]*)")

TIME_FORMAT = {"SLURM_TIME_FORMAT": "%s"}
"""The environment in which squeue prints times as seconds since 1970."""

_NODES = re.compile(r"([^\[,]+)(?:\[(\d+))?")
_NOTHING = frozenset({"", "n/a", "N/A", "None", "(null)", "None assigned", "Unknown", "INVALID"})
_SHOWN_BYTES = 80
_SIGNAL_BITS = 0x7F


def parse_queue(stdout: bytes, *, now_s: float) -> list[SlurmJob]:
    """The jobs in an answer of ``squeue -h -O QUEUE_FORMAT``.

    Args:
        stdout: The answer.
        now_s: Seconds since 1970 by the clock of the machine where squeue ran.

    Raises:
        SchedulerError: It is no whole answer.
    """
    return [_queued(stdout[start : start + _RECORD_BYTES], now_s) for start in range(0, len(stdout), _RECORD_BYTES)]


def parse_history(stdout: bytes) -> list[SlurmJob]:
    """The last run of each job in an answer of ``sacct -X -D -n -P -o HISTORY_FORMAT``.

    Raises:
        SchedulerError: It is no whole answer.
    """
    runs = parse_runs(stdout)
    begun = Counter(run.job for run in runs)
    last = {run.job: run for run in runs}
    return [_with_restarts(run, begun[run.job] - 1) for run in last.values()]


def parse_runs(stdout: bytes) -> list[SlurmJob]:
    """All runs in an answer of ``sacct -X -D -n -P -o HISTORY_FORMAT``, in their order.

    Raises:
        SchedulerError: It is no whole answer.
    """
    if stdout and not stdout.endswith(b"\n"):
        raise _unreadable("sacct", stdout.splitlines()[-1], "it breaks off in this line")
    return list(_runs(stdout.decode(errors="replace")))


def first_node(nodes: str) -> str:
    """The first node of a list such as ``node[03-05,7],login1``; empty for none."""
    found = None if nodes in _NOTHING else _NODES.match(nodes)
    return "" if found is None else found[1] + (found[2] or "")


def _queued(record: bytes, now_s: float) -> SlurmJob:
    found = _RECORD.fullmatch(record)
    if found is None:
        whole = len(record) == _RECORD_BYTES
        why = "its columns are not where they were asked for" if whole else "it breaks off, or is none"
        raise _unreadable("squeue", record, why)
    fields = (field.decode(errors="replace").strip() for field in found.groups())
    job, state, restarts, status, host, start, reason, name = fields
    try:
        code, ended_by = _exit(status)
        return SlurmJob(
            job=JobId(str(int(job))),
            name=name,
            state=state,
            reason=_something(reason),
            host=_something(host),
            exit_code=code,
            signal=ended_by,
            restarts=int(restarts),
            starts_in_s=still_to_come(int(start), now_s) if state == "PENDING" and _something(start) else None,
        )
    except ValueError as error:
        raise _unreadable("squeue", record, str(error)) from error


def _exit(status: str) -> tuple[int, int]:
    """(exit code, signal), from what wait(2) gave, which 22.05 prints, or from ``code:signal``."""
    if ":" in status:
        code, _, killed_by = status.partition(":")
        return int(code), int(killed_by)
    number = int(status) & _SIGNAL_BITS
    return (0, number) if number else (int(status) >> 8, 0)


def _runs(text: str) -> Iterator[SlurmJob]:
    for line in text.removesuffix("\n").split("\n") if text else ():
        found = _LINE.fullmatch(line)
        if found is None:
            raise _unreadable("sacct", line.encode(), f"it is not of the form {HISTORY_FORMAT}")
        job, state, canceller, code, number, nodes = found.groups()
        yield SlurmJob(
            job=JobId(job),
            name="",
            state=state,
            reason=f"by uid {canceller}" if canceller else "",
            host=first_node(nodes),
            exit_code=int(code),
            signal=int(number),
        )


def _with_restarts(run: SlurmJob, restarts: int) -> SlurmJob:
    return dataclasses.replace(run, restarts=restarts)


def _something(value: str) -> str:
    return "" if value in _NOTHING else value


def _unreadable(command: str, record: bytes, why: str) -> SchedulerError:
    line = next((line for line in record.splitlines() if line.strip()), b"").strip()
    shown = repr(line[:_SHOWN_BYTES]).removeprefix("b")
    return SchedulerError(f"cannot read the answer of {command}: {why}: {shown}; run it by hand and look")
