"""The process in which pyslurm lives: ``python -P -m hpcserve.cluster.pyslurm_helper``.

pyslurm holds the GIL while Slurm keeps it waiting, up to 20 s for one call, and Slurm's C code ends the process where
it finds its configuration unusable. Here neither hurts anybody: :mod:`hpcserve.cluster.slurm_pyslurm` starts this
process, asks it by the messages of :mod:`hpcserve.cluster.pyslurm_messages` and kills it when it does not answer. It
ends when its standard input does. This is the only file that imports pyslurm.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from hpcserve.cluster.pyslurm_jobs import live, past
from hpcserve.cluster.pyslurm_messages import (
    ANSWERED,
    NO_ACCOUNTING,
    Answer,
    Cancel,
    Done,
    Failed,
    History,
    Ping,
    Queue,
    Ready,
    Request,
    Submit,
    Submitted,
    Told,
)
from hpcserve.cluster.sbatch_options import description
from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_errno import ALREADY_DONE, INVALID_JOB_ID, is_verdict, submission_error
from hpcserve.cluster.slurm_jobs import SlurmJob
from hpcserve.cluster.slurm_refusals import hint
from hpcserve.errors import JobRefused, SchedulerError, SubmissionUnknown

RELEASE = "25.11"
"""The release whose answers are known here; pyslurm's releases are those of the Slurm that each speaks to."""

_UNKNOWN_TO_ACCOUNTING = "does not exist on Cluster"


class Helper:
    """Answers requests by pyslurm.

    Args:
        pyslurm: The module, which has read Slurm's configuration.
    """

    def __init__(self, pyslurm: Any) -> None:
        self._pyslurm = pyslurm
        self._uid = os.getuid()

    def answer(self, request: Request) -> Answer:
        """The answer to one request, whatever goes wrong."""
        match request:
            case Submit():
                return self._submit(request)
            case Cancel():
                return self._cancel(request.job)
        try:
            match request:
                case Ping():
                    self._ping()
                    return Done()
                case Queue():
                    self._ping()
                    return Told(jobs=tuple(self._queue()))
                case History():
                    return self._history(request.jobs)
        except self._pyslurm.RPCError as error:
            return _failed(error, SchedulerError, f"Slurm does not tell of jobs: {error}")

    def _ping(self) -> None:
        """Raises at once what any other call would raise after 10 s or 20 s.

        One after the other and not ``ping_all``, which fails where a single one of two controllers is down.
        """
        try:
            self._pyslurm.slurmctld.ping(0)
        except self._pyslurm.RPCError as primary:
            try:
                self._pyslurm.slurmctld.ping(1)
            except self._pyslurm.RPCError:
                raise primary from None

    def _submit(self, request: Submit) -> Answer:
        try:
            self._ping()
        except self._pyslurm.RPCError as error:
            return _failed(error, SchedulerError, f"slurmctld does not answer: {error}; the job was not submitted")
        try:
            fields = description(request.script, request.environment, own=_submission_variables())
            job = self._pyslurm.JobSubmitDescription(**fields).submit()
        except SchedulerError as error:
            return Failed(code=error.code, message=error.message)
        except self._pyslurm.RPCError as error:
            return _failed_submission(error)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            return Failed(code="job_refused", message=f"pyslurm refuses the job: {error}; look at the job script")
        return Submitted(job=JobId(str(job)))

    def _queue(self) -> list[SlurmJob]:
        # All jobs of everybody: pyslurm 25.11 has no filter that slurmctld would apply.
        now_s = time.time()
        return [live(job, now_s=now_s) for job in self._pyslurm.Jobs.load().values() if job.user_id == self._uid]

    def _history(self, jobs: Iterable[JobId]) -> Answer:
        try:
            return Told(jobs=tuple(job for each in jobs if each.isdecimal() and (job := self._past(int(each)))))
        except self._pyslurm.RPCError as error:
            if not self._has_accounting():
                return Failed(code=NO_ACCOUNTING, message=f"this Slurm keeps no accounting: {error}")
            return _failed(error, SchedulerError, f"Slurm's accounting does not answer: {error}")

    def _past(self, job: int) -> SlurmJob | None:
        try:
            return past(self._pyslurm.db.Job.load(job))
        except self._pyslurm.RPCError as error:
            # Its number is -1, as for everything that goes wrong with slurmdbd.
            if _UNKNOWN_TO_ACCOUNTING in str(error):
                return None
            raise

    def _has_accounting(self) -> bool:
        """Whether slurmctld says so; where it says nothing, yes."""
        try:
            self._ping()
            kind = self._pyslurm.slurmctld.Config.load().accounting_storage_type
        except self._pyslurm.RPCError:
            return True
        # None from 23.02 on, where "none" is the default and no plugin any more.
        return kind not in {None, "", "accounting_storage/none"}

    def _cancel(self, job: JobId) -> Answer:
        if not job.isdecimal():
            return Done()
        try:
            self._ping()
            self._pyslurm.Job(int(job)).cancel()
        except self._pyslurm.RPCError as error:
            if error.errno not in {INVALID_JOB_ID, ALREADY_DONE}:
                failed = _failed(error, SchedulerError, f"Slurm does not cancel job {job}: {error}")
                return msgspec.structs.replace(failed, code=ANSWERED) if is_verdict(error.errno) else failed
        return Done()


def _failed(error: Any, kind: type[SchedulerError], message: str) -> Failed:
    return Failed(code=kind.code, message=f"{message} (Slurm's error {error.errno})", errno=error.errno)


def _failed_submission(error: Any) -> Failed:
    kind = submission_error(error.errno)
    if kind is JobRefused:
        return _failed(error, kind, f"Slurm refuses the job: {error}; {hint(str(error))}")
    if kind is SubmissionUnknown:
        return _failed(error, kind, f"Slurm may have taken the job: {error}; its name will tell")
    return _failed(error, kind, f"Slurm takes no job at present: {error}; it will be submitted again")


def _submission_variables() -> dict[str, str]:
    """What sbatch sets and pyslurm does not."""
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "SLURM_SUBMIT_DIR": str(Path.cwd()),
        "SLURM_SUBMIT_HOST": socket.gethostname(),
        "SLURM_UMASK": f"{mask:04o}",
    }


def load() -> Any:
    """pyslurm, with Slurm's configuration read. Slurm's C code may end the process instead.

    Raises:
        SchedulerError: It cannot be used; the message says why.
    """
    # Otherwise the import reads the configuration, and ends the process where it is unusable.
    os.environ["PYSLURM_DISABLE_AUTO_INIT"] = "1"
    try:
        import pyslurm
    except ModuleNotFoundError as error:
        if error.name != "pyslurm":
            raise SchedulerError(f"pyslurm does not load: {error}") from error
        raise SchedulerError("pyslurm is not installed; pip install 'hpcserve[slurm]' brings it") from error
    except ImportError as error:  # above all that of libslurm.so in another release
        raise SchedulerError(f"pyslurm does not load, so it was built for another Slurm: {error}") from error
    if not pyslurm.__version__.startswith(f"{RELEASE}."):
        raise SchedulerError(f"pyslurm {pyslurm.__version__} is installed, and only {RELEASE} is known")
    # Slurm's own variable, by which all its commands go too.
    configuration = os.environ.get("SLURM_CONF")
    if configuration is None:
        pyslurm.slurm_init()
    elif not os.access(configuration, os.R_OK):  # Slurm would look again each second for a minute
        raise SchedulerError(f"SLURM_CONF names {configuration}, which cannot be read")
    else:
        pyslurm.slurm_init(configuration)
    return pyslurm


def main() -> int:
    """Answers until the standard input ends."""
    # Slurm's C code writes to the descriptors 1 and 2 as it likes: the answers have one of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(answer: Answer) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()

    try:
        pyslurm = load()
    except SchedulerError as error:
        say(Failed(code=error.code, message=error.message))
        return 1
    helper = Helper(pyslurm)
    say(Ready(release=pyslurm.__version__))
    for line in sys.stdin.buffer:
        say(helper.answer(msgspec.json.decode(line, type=Request)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
