"""What the exit codes and words of PBS's commands mean: never, not now, not at all, or perhaps after all. Pure.

A command exits with the last byte of PBS's error number: 15001, an unknown job, as 153. The words tell more, and come
first: that the server could not be reached stands there whatever the number is, and a hook of the site writes its own.

Source: ``pbs_error.h`` and ``pbs_messages.c`` of OpenPBS; the recorded answers of 23.06.
"""

from __future__ import annotations

import re
from typing import Literal

from hpcserve.cluster.runner import Answer, failure
from hpcserve.cluster.seam import Answered
from hpcserve.cluster.submission import AGAIN, advice, in_one_line, without_a_word
from hpcserve.errors import JobRefused, NoRoom, SchedulerError, SubmissionUnknown

UNKNOWN_JOB = 15001
SYSTEM = 15010
BAD_STATE = 15016
ALREADY_EXITING = 15050
DELETED_ALREADY = 15085
NO_MOM = 15070
HISTORY_JOB = 15139
_SHOWN_CHARACTERS = 300


class Gone(SchedulerError):
    """A job was not taken, since one that it was to come after is not there any more."""


Verdict = Literal["never", "no room", "trouble", "perhaps"]

_VERDICTS: dict[int, Verdict] = {
    15006: "perhaps",  # too many tries to submit
    SYSTEM: "trouble",
    15011: "trouble",  # internal error of the server
    15019: "trouble",  # invalid credential
    15020: "trouble",  # expired credential
    15021: "no room",  # queue not enabled
    15031: "perhaps",  # protocol error: the connection broke
    15033: "trouble",  # no free connections
    15034: "trouble",  # no server
    15044: "no room",  # resources temporarily unavailable
    15046: "no room",  # most jobs in the queue
    15056: "perhaps",  # protocol error
    15060: "trouble",  # server shutting down
    15090: "no room",  # licences
    15098: "no room",  # licences
    15117: "trouble",  # connection table full
    15142: "no room",  # a limit on how many jobs
    15143: "no room",  # a limit on what all jobs have
    15160: "trouble",  # to be done again
    15161: "trouble",  # the server could not save the job
    15208: "trouble",  # try again later
}
_BY_EXIT_CODE = {number & 0xFF: verdict for number, verdict in _VERDICTS.items()}

# The server was not reached: nothing was sent.
_UNREACHED = re.compile(
    r"cannot connect to server|connection refused|no route to host|unknown host|network is unreachable"
    r"|host name lookup failure|communication failure|couldn.t connect to|unable to (?:initialize|authenticate)",
    re.IGNORECASE,
)
# It was, but the node that runs the job was not: that tells of this job alone.
_NO_MOM = re.compile(r"connect to MOM\b")
# It was, and then the connection was lost.
_PERHAPS = re.compile(r"connection reset|broken pipe|end of file|timed out|protocol error", re.IGNORECASE)
_NO_ROOM = re.compile(
    r"would exceed|maximum number of jobs|limit on number of jobs|not enabled|temporarily unavailable", re.IGNORECASE
)

_WHAT_TO_DO = (
    ("queue and/or server resource limits", "keep pilots.nodes and pilots.walltime_s within what `qstat -Qf` lists"),
    ("queue", "correct pilots.partition in the site file (`qstat -Q` lists the queues)"),
    ("account", "correct pilots.account in the site file"),
    ("project", "correct pilots.account in the site file"),
    ("walltime", "correct pilots.walltime_s in the site file"),
    ("filesystems", "name the file systems in pilots.directives, such as '-l filesystems=home'"),
    ("resource", "correct pilots.directives in the site file; `qstat -Bf` and `pbsnodes -av` show what there is"),
    ("reservation", "correct pilots.reservation in the site file"),
    ("unauthorized", "ask the site whether this user may submit to this queue"),
    ("uid", "ask the site whether this user may submit"),
    ("name is too long", "shorten the name that pilots.script gives the job"),
    ("illegal", "correct pilots.directives in the site file, or what pilots.script holds"),
    ("usage", "correct pilots.directives in the site file, or what pilots.script holds"),
)  # fmt: skip


def is_error(answer: Answer, *numbers: int) -> bool:
    """Whether a command failed with one of PBS's error numbers."""
    return answer.exit_code in {number & 0xFF for number in numbers}


def refusal(answer: Answer) -> SchedulerError:
    """The error for an answer of qsub that gives no job id."""
    line = _line(answer)
    if not line:
        return without_a_word(answer)
    if is_error(answer, UNKNOWN_JOB):
        return Gone(f"PBS does not take the job: {line}; one that it was to come after has just ended; {AGAIN}")
    verdict = _verdict(answer.exit_code, line)
    if verdict == "perhaps":
        return SubmissionUnknown(f"PBS may have taken the job: qsub says {line}; its name will tell")
    if verdict == "trouble":
        return SchedulerError(f"PBS cannot take a job at present: {line}; {AGAIN}")
    if verdict == "no room":
        return NoRoom(f"PBS takes no more jobs at present: {line}; {AGAIN} when there is room")
    return JobRefused(f"PBS refuses the job: {line}; {advice(line, _WHAT_TO_DO)}")


def not_deleted(answer: Answer) -> SchedulerError:
    """The error for an answer of qdel: the server is away, or it does not delete this job."""
    line = _line(answer)
    if not line or _verdict(answer.exit_code, line) in {"trouble", "perhaps"}:
        return no_answer(answer)
    if is_error(answer, NO_MOM) or _NO_MOM.search(line):
        return Answered(
            f"PBS does not reach the job's node, and so does not end it: {line}; it is tried again; if the node is "
            "gone for good, `qdel -W force` has the server forget the job"
        )
    return Answered(f"PBS does not end the job: {line}; it is tried again")


def no_answer(answer: Answer) -> SchedulerError:
    """The error for an answer of any other command that tells of nothing."""
    line = _line(answer)
    if _UNREACHED.search(line):
        return SchedulerError(
            f"{answer.argv[0]} does not reach the PBS server: {line}; is it up, and does PBS_SERVER or /etc/pbs.conf "
            "name it?"
        )
    return failure(answer)


def _verdict(exit_code: int, line: str) -> Verdict:
    if _UNREACHED.search(line):
        return "trouble"
    if _PERHAPS.search(line):
        return "perhaps"
    if _NO_ROOM.search(line):
        return "no room"
    return _BY_EXIT_CODE.get(exit_code, "never")


def _line(answer: Answer) -> str:
    return in_one_line(answer, f"{answer.argv[0]}: ")[:_SHOWN_CHARACTERS]
