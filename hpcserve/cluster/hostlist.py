"""Names of nodes: Slurm's short form of several, written out; and which of ours are meant. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Source: the hostlist expressions of slurm.conf(5), as slurmctld and srun print them: one pair of brackets a name.
_NAME = re.compile(r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)")


def expanded(names: str) -> tuple[str, ...]:
    """``node[1-2,07],login`` as ``node1``, ``node2``, ``node07``, ``login``. What is something else, stays."""
    found: list[str] = []
    for head, numbers, tail in _NAME.findall(names):
        found += [f"{head}{number}{tail}" for number in _numbers(numbers)] if numbers else [f"{head}{tail}"]
    return tuple(found)


def _numbers(text: str) -> list[str]:
    listed: list[str] = []
    for part in text.split(","):
        first, is_range, last = part.partition("-")
        if is_range and first.isdigit() and last.isdigit():
            listed += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        else:
            listed.append(part)
    return listed


def named(nodes: Iterable[str], hosts: Iterable[str]) -> list[str]:
    """Those of the nodes that are among these hosts, with or without a domain."""
    short = {host.partition(".")[0] for host in hosts}
    return [node for node in nodes if node.partition(".")[0] in short]
