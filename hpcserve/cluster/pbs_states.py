"""What each state, substate and exit status of PBS means: the tables, and how they are read together.

Decides no more than that. A state that is not known here, or that does not fit its substate, is ``unknown``.

Source: PBS Professional 2024.1 Reference Guide, tables 8-1 and 8-2 (states, substates), 11-1 and 11-2 (exit status);
``JOB_EXEC_*`` in ``job.h`` of OpenPBS; the recorded answers of 23.06.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from hpcserve.cluster.pbs_json import PbsJob
from hpcserve.cluster.processes import exit_in_words
from hpcserve.cluster.seam import JobEnd, JobPhase


@dataclass(frozen=True, slots=True)
class Meaning:
    """A phase, with the end that belongs to ``ended``, what the words of PBS leave out, and the script's exit code."""

    phase: JobPhase
    end: JobEnd | None = None
    words: str = ""
    exit_code: int | None = None


_PROVISIONING = frozenset({71, 72})
_DELETED, _FINISHED, _FAILED, _MOVED = 91, 92, 93, 94
_SIGNAL_BASE = 256

# All but F, whose end is in other fields.
STATES = {
    "Q": Meaning("queued"),
    "H": Meaning("queued", words="held"),
    "W": Meaning("queued", words="it may not start before a time, or its files could not be staged in"),
    "T": Meaning("queued", words="it is being moved to another queue"),
    "R": Meaning("running"),
    # What follows is known when it is over; until then its nodes are not free either.
    "E": Meaning("running", words="its processes have ended, and PBS cleans up behind it and delivers its output"),
    "S": Meaning("suspended", words="its processes are stopped and its nodes may be given to others"),
    "U": Meaning("suspended", words="its processes are stopped, since somebody works at its node"),
    "B": Meaning("running", words="it is a job array of which parts have begun"),
    "M": Meaning("unknown", words="it was moved to another PBS server, which hpcserve does not ask"),
    "X": Meaning("unknown", words="it is a part of a job array and over; hpcserve submits none"),
}

# What PBS itself writes in the place of an exit code. No script has ended with any of these.
OWN_STATUS: dict[int, tuple[JobEnd, str]] = {
    -1: ("never started", "PBS could not start it on its node"),
    -2: ("never started", "PBS could not start it on its node"),
    -3: ("never started", "PBS could not start it on its node and was to try again"),
    -4: ("node failed", "PBS on its node was begun anew"),
    -5: ("node failed", "PBS on its node was begun anew"),
    -6: ("node failed", "PBS on its node was begun anew"),
    -7: ("failed", "it could not go on from its checkpoint"),
    -10: ("never started", "its user is not known on its node"),
    -11: ("?", "it was to run again"),
    -12: ("?", "it was checkpointed and killed"),
    -13: ("never started", "its user's password was refused"),
    -14: ("node failed", "a node of it could not be reached from the first one"),
    -15: ("?", "it was to run again from a checkpoint"),
    -16: ("never started", "a hook of the site refused it on its node"),
    -17: ("never started", "a hook of the site refused it on its node"),
    -18: ("?", "a hook of the site put it back into the queue"),
    -19: ("cancelled", "a hook of the site deleted it"),
    -20: ("node failed", "its first node could not be reached any more"),
    -21: ("never started", "PBS's directory on its node is not safe"),
    -22: ("never started", "a hook of the site failed on its node"),
    -23: ("never started", "its Kerberos credentials were missing"),
    -24: ("failed", "it used more processors than it had asked for"),
    -25: ("failed", "it used more processors than it had asked for"),
    -26: ("out of memory", "it used more virtual memory than it had asked for"),
    -27: ("out of memory", "it used more memory than it had asked for"),
    -28: ("failed", "it used more processor time than it may"),
    -29: ("walltime", "its walltime is used up"),
    -30: ("node failed", "a node of it did not join"),
    -31: ("out of memory", "it used more high-bandwidth memory than it had asked for"),
    -32: ("?", "its processes were lost sight of"),
}

# In comments. None is recorded, only "exceeded resource walltime", which is like the first; docs/explanation/pbs.md
# says where each is from.
_OUT_OF_MEMORY = re.compile(r"exceeded resource \w*mem\b|memory limit exceeded", re.IGNORECASE)
_PREEMPTED = re.compile(r"\b(?:preempted|preemption)\b", re.IGNORECASE)  # a queue may be called preemptable
_FAILED_OFTEN = "too many failed attempts"
_HOLDERS = {"u": "its user", "o": "an operator", "s": "PBS or an administrator", "p": "PBS, over a bad password"}
_NEVER = "can never run"
_SHRINK = (
    "no node can ever fulfil what it asks for; lower pilots.nodes, pilots.gpus_per_node, pilots.cpus_per_node or "
    "pilots.memory_per_node_mib, or correct pilots.directives"
)
_UNMET_DEPENDENCY = 22


def meaning(job: PbsJob) -> Meaning:
    """What PBS says of a job."""
    if job.problem:
        return Meaning("unknown", words=job.problem)
    over = (job.substate or 0) >= _DELETED and job.state != "M"
    if over != (job.state == "F"):
        return _strange(job)
    return _end(job) if over else _living(job)


def restarts(job: PbsJob) -> int:
    """How often it was put back into the queue: all its runs, but for the one that it is in or was in last."""
    waits = meaning(job).phase == "queued" and job.state != "R"
    return job.run_count if waits else max(0, job.run_count - 1)


def former_end(job: PbsJob) -> JobEnd | None:
    """How the run before ended of a job that waits again; None: PBS does not say."""
    return "preempted" if job.run_count and _PREEMPTED.search(job.comment) else None


def is_given_up(job: PbsJob) -> bool:
    """Whether PBS has tried to begin it so often, twenty times, that it will not any more."""
    return job.state == "H" and _FAILED_OFTEN in job.comment.lower()


def _living(job: PbsJob) -> Meaning:
    known = STATES.get(job.state)
    if known is None:
        return Meaning("unknown", words=f"PBS says {job.state or 'no state'!r}, a state that hpcserve does not know")
    if job.state == "R" and job.substate in _PROVISIONING:
        return Meaning("queued", words="its nodes are prepared")
    if job.state == "H":
        return Meaning("queued", words=_held(job))
    if known.phase == "queued" and _NEVER in job.comment.lower():
        return Meaning("queued", words=_SHRINK)
    return known


def _held(job: PbsJob) -> str:
    if job.substate == _UNMET_DEPENDENCY:
        return "it waits for another job"
    if is_given_up(job):
        return "PBS could not begin it on its nodes, and has given up"
    holders = " and ".join(_HOLDERS[letter] for letter in job.hold_types if letter in _HOLDERS)
    # Others than the user's own holds are let go by operators and administrators alone. Source: qrls(1B).
    what = f"`qrls {job.job}` lets it go" if set(job.hold_types) <= {"u"} else "ask the facility to let it go"
    return f"it is held by {holders or 'somebody'}; {what}"


def _strange(job: PbsJob) -> Meaning:
    return Meaning("unknown", words=f"PBS says state {job.state!r} and substate {job.substate}, which do not fit")


def _end(job: PbsJob) -> Meaning:
    """How a job in state F ended. Without an exit status nothing of it ran to an end, so it never was a success."""
    status = job.exit_status
    if job.substate not in (_DELETED, _FINISHED, _FAILED):
        return STATES["M"] if job.substate == _MOVED else _strange(job)
    if status is None:
        return _without_status(job)
    if status < 0:
        return Meaning("ended", *OWN_STATUS.get(status, ("?", f"PBS ended it, exit status {status}")))
    if _PREEMPTED.search(job.comment):
        return Meaning("ended", "preempted", "its nodes were given to a job that may preempt it")
    if job.substate == _DELETED:
        return Meaning("ended", "cancelled")
    return _of_script(job, status)


def _without_status(job: PbsJob) -> Meaning:
    if job.substate == _DELETED:
        return Meaning("ended", "cancelled", "" if job.hosts else "it never ran")
    if job.hosts:
        return Meaning("ended", "?", "PBS has no exit status of it")
    return Meaning(
        "ended", "never started", "it never ran; a job that it waited for may have ended otherwise than asked"
    )


def _of_script(job: PbsJob, status: int) -> Meaning:
    code = _SIGNAL_BASE - status if status > _SIGNAL_BASE else status
    if _OUT_OF_MEMORY.search(job.comment):
        return Meaning("ended", "out of memory", "it used more memory than it had asked for", code)
    if status == 0:
        # Success is what all fields say, or nobody knows.
        return Meaning("ended", "completed", exit_code=0) if job.substate == _FINISHED else Meaning("ended", "?")
    if status == _SIGNAL_BASE or -code > signal.NSIG:
        return Meaning("ended", "failed", f"its exit status is {status}")
    return Meaning("ended", "failed", f"its script: {exit_in_words(code)}", code)
