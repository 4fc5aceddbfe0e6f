"""What Apptainer asks of the kernel for root, and a host may not have: a container, or a machine that lacks it.

Started by root, Apptainer 1.4 asks for all capabilities, and fails where root itself has not all of them ("Requesting
capability set … while permitted capability set is …"). It leaves out those that ``APPTAINER_DROP_CAPS`` names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "APPTAINER_DROP_CAPS"
SYS_RESOURCE = "CAP_SYS_RESOURCE"
"""The one that hosts were seen to lack."""
_BIT = 24  # Source: <linux/capability.h>
_PERMITTED = re.compile(r"(?m)^CapPrm:\s*([0-9a-f]+)")


def without_missing(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for Apptainer, started by this process; what it says of capabilities itself is left as it is."""
    status = Path("/proc/self/status")
    if os.geteuid() != 0 or environment.get(VARIABLE) or not status.exists():
        return dict(environment)
    return {**environment, **({VARIABLE: SYS_RESOURCE} if lacks_sys_resource(status.read_text()) else {})}


def lacks_sys_resource(status: str) -> bool:
    """Whether a process may not have it; False where that is not told.

    Args:
        status: Its ``/proc/PID/status``. Source: proc(5).
    """
    permitted = _PERMITTED.search(status)
    return permitted is not None and not int(permitted[1], 16) >> _BIT & 1
