"""What pyslurm itself refuses in the description of a job, before Slurm sees it."""

from __future__ import annotations

import re
from typing import Any

from .errors import RPCError

# Of pyslurm 25.11's JobSubmitDescription; another name is an AttributeError.
_NAMES = """
    account array begin_time comment constraints cpus_per_task dependencies environment excluded_nodes gpus
    gpus_per_task gres_per_node is_requeueable kill_on_node_fail licenses log_files_open_mode mail_types mail_user
    memory_per_cpu memory_per_node name network nice nodes ntasks ntasks_per_node partitions priority qos
    required_nodes reservations resource_sharing script signal standard_error standard_in standard_output
    threads_per_core time_limit time_limit_min wckey working_directory
"""
NAMES = frozenset(_NAMES.split())


def check(fields: dict[str, Any]) -> None:
    """Raises what the recordings hold for such fields."""
    for name in fields:
        if name not in NAMES:
            raise AttributeError(f"'pyslurm.core.job.submission.JobSubmitDescription' object has no attribute '{name}'")
    for name in ("ntasks", "ntasks_per_node", "cpus_per_task"):
        if not isinstance(fields.get(name, 1), int):
            raise TypeError("an integer is required")
    _check_time(fields.get("time_limit", 1))
    if not isinstance(fields.get("signal", {}).get("signal", 10), int):
        raise TypeError("an integer is required")
    script = fields["script"]
    if not script.startswith("#!"):
        raise ValueError(
            "Not a valid Batch script. First line must start with '#!',followed by the path to an interpreter"
        )
    if "\r\n" in script:
        raise ValueError("Batch script contains DOS line breaks (\\r\\n) instead of expected UNIX line breaks (\\n).")
    if not isinstance(fields.get("environment"), dict) or not fields["environment"]:
        raise RPCError(2019, "I/O error writing script/environment to file")
    if len(script) > 4 * 2**20 or len(fields.get("name", "")) > 1024:
        raise RPCError(2012, "Pathname of a file, directory or other parameter too long")


def _check_time(limit: Any) -> None:
    if isinstance(limit, int) and limit >= 0:
        return
    if str(limit).isdigit():
        raise TypeError("an integer is required")
    if limit != "UNLIMITED" and not re.fullmatch(r"(\d+-)?\d+:\d+:\d+", str(limit)):
        raise ValueError(f"Invalid Time Specification: {limit}.")
