"""What Slurm's error numbers mean for a submission. Pure.

Numbers from 2000 on are verdicts of slurmctld about the job. Those below, and those of the operating system, tell of
the way there: after most of them nobody knows whether the job was taken.

Source: slurm/slurm_errno.h of Slurm 25.11, whose numbers are never given anew.
"""

from __future__ import annotations

import errno

from hpcserve.errors import JobRefused, NoRoom, SchedulerError, SubmissionUnknown

PROTOCOL_VERSION = 1005
CONNECTION = 1800
INVALID_JOB_ID = 2017
ALREADY_DONE = 2021

_NOT_SENT = frozenset(
    {
        1001,  # no connection
        1002,  # not wholly sent: a message is acted upon when all of it has come
        PROTOCOL_VERSION,
        1007,  # not authenticated, as when munged is down
        1019,  # rejected
        1021,  # no connection in time
        CONNECTION,
        1801,  # not wholly sent
        1804,  # slurmctld asks to come back later
        1805,  # slurmctld dropped the connection unread
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    }
)

# Slurm has one number, 2050, for "too many jobs at present" and, where a QOS denies on its limits, "too large for
# ever"; sbatch tells them apart by a text that pyslurm throws away.
_NO_ROOM = frozenset(
    {
        2007,  # MaxJobCount
        2013,  # others come first
        2016,  # nodes busy
        2050,  # a limit of an association or a QOS
        2055,  # reservation busy
        2070,  # partition inactive or draining
        2074,  # QOS threshold
        2078,  # cannot start immediately
        2101,  # partition down
    }
)

# slurmctld's own troubles: the job may be fine.
_TROUBLE = frozenset(
    {
        2019,  # cannot write the script, as on a full disk
        2020,  # try again later
        2027,  # in standby
        2041,  # takes over
        2090,  # internal error
        2105,  # submissions are disabled
        2131,  # in standby, ask the backup
    }
)

_VERDICTS = range(2000, 3000)
_VERDICTS_ABOUT_CLUSTERS = range(7100, 7300)
_VERDICTS_OF_PLUGINS = range(8000, 9000)


def is_verdict(number: int) -> bool:
    """Whether error ``number`` was said by a slurmctld that is well, about what it was asked for."""
    return submission_error(number) in (JobRefused, NoRoom)


def submission_error(number: int) -> type[SchedulerError]:
    """The error that a submission ends with which Slurm answered with error ``number``."""
    if number in _NO_ROOM:
        return NoRoom
    if number in _NOT_SENT or number in _TROUBLE:
        return SchedulerError
    if number in _VERDICTS or number in _VERDICTS_ABOUT_CLUSTERS or number in _VERDICTS_OF_PLUGINS:
        return JobRefused
    return SubmissionUnknown
