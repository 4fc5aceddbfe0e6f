"""What the operating system lets this process have: many connections, little memory.

Memory that is spent before anybody has said who he is cannot be bounded in ZeroMQ. Past the limit, libzmq
(seen: 4.3.5) drops the connection whose frame it cannot hold; where it needs memory for itself it ends the
process, and the supervisor starts it anew. The data path notices neither.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

MEMORY_BYTES = 512 << 20
"""What the process may take beyond what it has when it starts."""


def raise_descriptors() -> None:
    """Allows as many open connections as the administrator does."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def bound_memory() -> None:
    """Bounds the address space, and leaves no core file when the bound is hit."""
    if not sys.platform.startswith("linux"):
        return  # elsewhere the limit is not kept, or cannot be set
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
