"""What sbatch's refusal means: never, not now, not at all, or perhaps taken after all. Decides no more than that.

Source: the texts of ``slurm_errno.c`` of 22.05 and 25.11, which sbatch prints behind ``Batch job submission failed:``,
and the names of limits that slurmctld sends beside them.
"""

from __future__ import annotations

import re

from hpcserve.cluster.runner import Answer, failure
from hpcserve.cluster.seam import Answered
from hpcserve.cluster.submission import AGAIN, advice, in_one_line, without_a_word
from hpcserve.errors import JobRefused, NoRoom, SchedulerError, SubmissionUnknown

# The request had left, or may have, when the connection broke: the job may be in the queue.
_PERHAPS_TAKEN = (
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "Unable to contact slurm controller (send failure)",
    "Unable to contact slurm controller (receive failure)",
    "Unable to contact slurm controller (shutdown failure)",
    "Message send failure",
    "Message receive failure",
    "Communication shutdown failure",
    "Connection timed out writing",
    "Connection timed out reading",
    "Connection reset by peer",
    "Broken pipe",
    "Kernel reported delayed socket error",
    "Unexpected message received",
    "Header lengths are longer than data received",
    "Insane message length",
)

# Nothing was sent, or slurmctld cannot take anything at present from anybody.
_NOT_AT_PRESENT = (
    "Unable to contact slurm controller (connect failure)",
    "Communication connection failure",
    "Connection timed out establishing",
    "Connection refused",
    "Slurm backup controller in standby mode",
    "Controller is in standby mode",
    "Rate limit exceeded",
    "Slurm temporarily unable to accept job",
    "Resource temporarily unavailable",
    "System submissions disabled",
    "Process is shutting down",
    "I/O error writing script/environment to file",
    "Protocol authentication error",
    "Invalid authentication credential",
    "Authentication credential expired",
    "Munge",
    "Unable to connect to database",
    "Slurm internal error",
    "Job can not be altered now, try again later",
)

# Its partition may come up again.
_PARTITION_IS_OFF = ("Required partition not available (inactive or drain)", "Partition in DOWN state")

# A limit on how many jobs there are; the job itself is well.
_LIMIT_ON_JOBS = re.compile(
    r"(QOS|Assoc)(Max|Grp)\w*Submit\w*|MaxSubmitJobs\w*|(QOS|Assoc)Grp\w+|(QOS|Assoc)Max\w*Jobs\w*"
    r"|MaxJobCount limit reached|QOSUsageThreshold|Requested account has breached requested QOS usage threshold"
)
# A limit on one job; this job is too large for ever.
_LIMIT_ON_ONE_JOB = re.compile(r"(QOS|Assoc)Max\w*(PerJob|PerNode|Wall)\w*|QOSMin\w+|QOSNotAllowed|Partition\w+Limit")
# Both kinds have this one text. Without the limit's name it is taken for a limit on how many.
_SOME_LIMIT = "Job violates accounting/QOS policy"

_WHAT_TO_DO = (
    (
        "invalid account",
        "correct pilots.account in the site file (`sacctmgr show associations user=$USER` lists yours)",
    ),
    ("partition not available", "or choose another pilots.partition"),
    ("partition in down state", "or choose another pilots.partition"),
    ("partition", "correct pilots.partition in the site file (`sinfo -s` lists those that there are)"),
    ("qos", "correct pilots.qos in the site file (`sacctmgr show associations user=$USER` lists yours)"),
    ("time", "lower pilots.walltime_s in the site file"),
    ("feature", "correct pilots.constraint in the site file"),
    ("gres", "correct pilots.gpus_per_node in the site file"),
    ("reservation", "correct pilots.reservation in the site file"),
    ("memory", "lower pilots.memory_per_node_mib in the site file"),
    ("node", "ask for fewer or smaller nodes in [pilots] of the site file"),
    ("option", "correct pilots.directives in the site file, or what pilots.script holds"),
)


def refusal(answer: Answer) -> SchedulerError:
    """The error for an answer of sbatch that gives no job id."""
    line = in_one_line(answer, "sbatch: error: ")
    if not line:
        return without_a_word(answer)
    if _any(_PERHAPS_TAKEN, line):
        return SubmissionUnknown(f"Slurm may have taken the job: sbatch says {line}; its name will tell")
    return _verdict(line)


def not_cancelled(answer: Answer) -> SchedulerError:
    """The error for an answer of scancel: slurmctld is away, or it does not end this job."""
    line = in_one_line(answer, "scancel: error: ")
    if not line or _any(_PERHAPS_TAKEN, line) or _any(_NOT_AT_PRESENT, line):
        return failure(answer)
    return Answered(f"Slurm does not end the job: {line}; it is tried again")


def _verdict(line: str) -> SchedulerError:
    """What slurmctld itself says."""
    if _LIMIT_ON_ONE_JOB.search(line):
        return JobRefused(f"Slurm refuses the job: {line}; it is larger than this limit allows; {hint(line)}")
    if _LIMIT_ON_JOBS.search(line) or _SOME_LIMIT in line:
        return NoRoom(f"Slurm takes no more jobs at present: {line}; {AGAIN} when others have ended")
    if _any(_PARTITION_IS_OFF, line):
        return NoRoom(f"Slurm takes no job into this partition at present: {line}; {AGAIN}; {hint(line)}")
    if _any(_NOT_AT_PRESENT, line):
        return SchedulerError(f"Slurm cannot take a job at present: {line}; {AGAIN}")
    return JobRefused(f"Slurm refuses the job: {line}; {hint(line)}")


def _any(texts: tuple[str, ...], line: str) -> bool:
    return any(text in line for text in texts)


def hint(line: str) -> str:
    """What to do about a refusal in these words."""
    return advice(line, _WHAT_TO_DO)
