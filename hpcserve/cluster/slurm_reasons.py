"""Why a job waits or ended, in words, from the one that Slurm prints. Decides nothing.

Source: squeue(1), JOB REASON CODES, of 22.05 and 25.11, and ``job_state_reason_string`` in ``slurm_protocol_defs.c``.
"""

from __future__ import annotations

import re

from hpcserve.cluster.processes import exit_in_words

# slurmd's own sign, in the place of a signal; seen with 22.05 where the output's directory did not exist.
NO_OUTPUT_SIGNAL = 53

_SHRINK = "ask for less in [pilots] of the site file, or for another partition or QOS"
_OVER = "others' jobs count too; it starts when some have ended, if the site does not raise the limit"
_ADMIN = "ask the site's administrators"
_NODES = "`sinfo -R` says why"
_RELEASE = "look at the job's output, then `scontrol release` it or cancel it"

_WORDS = {
    "Resources": "it is next; the nodes that it needs are in use",
    "Priority": "jobs with a higher priority come first",
    "BeginTime": "it may not start before a time, as after a requeue",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "it waits for a job that can no longer end as asked, so it will never start; cancel it",
    "JobHeldUser": "it is held by its user; `scontrol release` lets it go",
    "JobHeldAdmin": f"it is held by an administrator; {_ADMIN}",
    "PartitionTimeLimit": "its walltime is more than its partition allows, so it does not start; lower "
    "pilots.walltime_s",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows or has, so it does not start; lower "
    "pilots.nodes",
    "PartitionConfig": "its partition does not allow what it asks for, so it does not start; lower pilots.nodes or "
    "pilots.walltime_s, or choose another pilots.partition",
    "PartitionDown": "its partition takes jobs but starts none at present; wait, or choose another pilots.partition",
    "PartitionInactive": "its partition is switched off; choose another pilots.partition",
    "BadConstraints": "no node can ever fulfil what it asks for; look at pilots.constraint, pilots.gpus_per_node, "
    "pilots.cpus_per_node and pilots.memory_per_node_mib",
    "ReqNodeNotAvail": f"a node that it needs is down, drained or reserved, often for maintenance; {_NODES}",
    "NodeDown": f"a node that it needs, or had, is down; {_NODES}",
    "InvalidAccount": "its account is not, or no longer, valid; correct pilots.account",
    "InvalidQOS": "its QOS is not, or no longer, valid; correct pilots.qos",
    "QOSNotAllowed": "its QOS is not allowed for its account or partition; correct pilots.qos",
    "QOSUsageThreshold": "its QOS has used more than its threshold; wait, or choose another pilots.qos",
    "AccountNotAllowed": "its account may not use its partition; correct pilots.account or pilots.partition",
    "AccountingPolicy": "a limit of its account or QOS is reached; it starts when there is room",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation was deleted; correct pilots.reservation",
    "ReservationInvalid": "its reservation is not valid; correct pilots.reservation",
    "Licenses": "it waits for a licence",
    "JobArrayTaskLimit": "its array runs as many jobs at once as it may",
    "JobHoldMaxRequeue": f"it was put back into the queue too often and is held; {_RELEASE}",
    "JobLaunchFailure": "it could not be launched; its output's directory may be missing on the node, or the node ill",
    "NonZeroExitCode": "its script ended with an exit code that is not 0",
    "TimeLimit": "its walltime is used up",
    "InactiveLimit": "it was inactive for too long",
    "OutOfMemory": "it used more memory than it had asked for; raise pilots.memory_per_node_mib",
    "FailedLaunch": "it could not be launched",
    "SystemFailure": f"Slurm itself failed; {_ADMIN}",
    "Prolog": "the site's prolog still runs",
    "Cleaning": "it was put back into the queue, and its last run is still cleaned up",
    "DeadLine": "it could not have ended before its deadline any more",
    "FrontEndDown": f"no front end is up; {_ADMIN}",
    "BurstBufferResources": "the burst buffer is full",
    "BurstBufferStageIn": "its files are being copied to the burst buffer",
    "BurstBufferOperation": f"an operation of the burst buffer failed; {_ADMIN}",
    "FedJobLock": "the clusters of the federation agree about it",
    "MaxPoweredUpNodes": "as many nodes are switched on as may be",
    "None": "",
}

# The limits of associations and of QOSs have a name for each resource: their form says what they mean.
_LIMITS = {
    r"(QOSMax|AssocMax).*Submit.*": f"as many jobs are in the queue as this account or QOS may have; {_OVER}",
    r"(QOS|Assoc)Grp.*(Minutes|Mins|RunMin).*": "the time granted to this account or QOS is used up or spoken for; it "
    "starts when some comes back or more is granted",
    r"(QOS|Assoc)Grp.*": f"the jobs of this account or QOS use together as much as they may; {_OVER}",
    r"(QOSMax|AssocMax).*Wall.*": "its walltime is more than its account or QOS allows; lower pilots.walltime_s",
    r"(QOSMax|AssocMax).*Per(Job|Node).*": f"it asks for more than its account or QOS allows one job; {_SHRINK}",
    r"(QOSMax|AssocMax|Max).*": f"the jobs of this user or account have as much as they may have at once; {_OVER}",
    r"QOSMin.*": "it asks for less than its QOS wants of a job; choose another pilots.qos or ask for more",
    r"QOS(Job|Resource|Time)Limit": f"a limit of its QOS is reached; {_OVER}",
    r"BurstBuffer.*": "it waits for the burst buffer",
}

# Free text that slurmctld writes in the place of a word.
_SENTENCES = {
    r"launch failed requeued held": f"it could not be launched and is held; {_RELEASE}",
    r"user env retrieval failed requeued held": "the user's environment could not be read on the node, and it is held; "
    f"`scontrol release` it, and if that happens again {_ADMIN}",
    r"job requeued in held state": f"it was put back into the queue and is held; {_RELEASE}",
    r"Nodes required for job are DOWN, DRAINED.*": "nodes that it needs are down, drained or kept for jobs with a "
    f"higher priority; {_NODES}",
    r"ReqNodeNotAvail,.*": f"a node that it needs is down, drained or reserved, often for maintenance; {_NODES}",
    r"RaisedSignal:.*": "its script was killed by this signal",
    r"by uid \d+": "cancelled by the user with this number",
}
# Up to 23.02 Slurm also says so of a script that ran and was killed by a signal.
_LAUNCH = "JobLaunchFailure"
_TOO_MUCH_MEMORY = "; Slurm itself kills one so that uses more memory than it had asked for; its output tells"
_SIGKILL = 9
_HELD = re.compile(r"^Job(Held|Hold)|(?<![a-z])held(?![a-z])")
_PATTERNS = [(re.compile(pattern), words) for pattern, words in (_LIMITS | _SENTENCES).items()]


def is_held(reason: str) -> bool:
    """Whether a job with this reason starts only when somebody lets it go."""
    return _HELD.search(reason) is not None


def in_words(reason: str, *, killed_by: int = 0) -> str:
    """``REASON: words``; the reason alone where it is not known; empty for none.

    Args:
        reason: Slurm's.
        killed_by: The signal that ended the job's script; 0 for none.
    """
    if reason == _LAUNCH and killed_by not in {0, NO_OUTPUT_SIGNAL}:
        return f"its script was {exit_in_words(-killed_by)}{_TOO_MUCH_MEMORY if killed_by == _SIGKILL else ''}"
    # sacct and some releases of squeue put underscores where slurmctld has spaces.
    spoken = reason.replace("_", " ")
    words = _WORDS.get(reason) or next((text for pattern, text in _PATTERNS if pattern.fullmatch(spoken)), "")
    return f"{reason}: {words}" if words else reason
