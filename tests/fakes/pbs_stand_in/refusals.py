"""The errors of PBS's commands. An exit code is the error's number modulo 256. Source: pbs_error.h of OpenPBS.

Recorded, or noted beside the recordings: 153, 35, 170, 187, 166, 159, 162 and 255. Not recorded, but from OpenPBS's
source, are the texts of the last three, and all others.
"""

from __future__ import annotations


class PbsError(Exception):
    """A command ends with ``exit_code`` and prints ``text`` after its name."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def unknown_job(name: str) -> PbsError:
    return PbsError(153, f"Unknown Job Id {name}")


def unknown_queue() -> PbsError:
    return PbsError(170, "Unknown queue")


def unknown_resource(name: str) -> PbsError:
    return PbsError(187, f"Unknown resource: {name}")


def illegal_value(name: str) -> PbsError:
    return PbsError(166, f"Illegal attribute or resource value Resource_List.{name}")


def not_beside_select(name: str) -> PbsError:
    return PbsError(5, f'"-lresource=" cannot be used with "select" or "place", resource is: {name}')


def unauthorized(name: str) -> PbsError:
    return PbsError(159, f"Unauthorized Request  {name}")


def has_finished(name: str) -> PbsError:
    return PbsError(35, f"Job has finished {name}")


def no_mom(name: str) -> PbsError:
    """PBSE_NORELYMOM, 15070: the server has the node end a job that runs, and does not reach it."""
    return PbsError(222, f"Server could not connect to MOM {name}")


def no_history(name: str) -> PbsError:
    """Not an error to qstat, which ends with 0."""
    return PbsError(0, f"PBS is not configured to maintain job history {name}")


def over_limits() -> PbsError:
    return PbsError(188, "Job violates queue and/or server resource limits")


def queue_is_full(queue: str) -> PbsError:
    return PbsError(38, f"would exceed queue {queue}'s per-user limit")


def queue_is_disabled() -> PbsError:
    return PbsError(173, "Queue is not enabled")


def usage() -> PbsError:
    return PbsError(2, "usage: the stand-in does not know these options")
