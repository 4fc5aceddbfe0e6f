"""What ``pbsnodes`` says about a site: whether there are nodes that could ever run its pilots. Pure.

PBS takes a job that no node can run, and lets it wait for ever. What a pilot asks for of a node is one chunk, which
lies on one host; a host may be several virtual nodes, and has what they have together.

Source: pbs_node_attributes(7B) and pbs_resources(7B) of OpenPBS 23.06; the recorded answer of a server of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcserve.cluster.finding import Asked, Finding, no_answer
from hpcserve.cluster.pbs_json import decoded
from hpcserve.config import Pilots, Site
from hpcserve.errors import SchedulerError

_SIZE = re.compile(r"(\d+)([kmgtp]?)(b|w)?", re.IGNORECASE)
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4, "p": 1024**5}
_USELESS = frozenset({"down", "offline", "stale", "state-unknown", "unresolvable", "Stale"})
_USUAL = {"ncpus": "cpus_per_node", "ngpus": "gpus_per_node", "mem": "memory_per_node_mib"}
_MIB = 1024**2
_NO_NODES = frozenset({"mpiprocs", "ompthreads"})
"""What a chunk may say that is not looked for at nodes."""


@dataclass(slots=True)
class _Host:
    """One host: the sums of its numbers, all its words, and whether any part of it can run jobs."""

    numbers: dict[str, int] = field(default_factory=dict)
    words: dict[str, set[str]] = field(default_factory=dict)
    is_up: bool = False

    def fits(self, numbers: Mapping[str, int], words: Mapping[str, str]) -> bool:
        """Whether it has at least these, and these words."""
        return all(self.numbers.get(name, 0) >= value for name, value in numbers.items()) and all(
            value in self.words.get(name, ()) for name, value in words.items()
        )


def nodes(site: Site, asked: Asked) -> Finding:
    """Of ``pbsnodes -av -F json``: whether enough hosts have what each node of a pilot is to have."""
    try:
        hosts = _hosts(asked)
    except SchedulerError as error:
        return Finding("nodes", "warning", f"not compared with what pilots ask for: {error}")
    numbers, words = _wanted(site.pilots)
    unheard = [name for name in (*numbers, *words) if not any(name in host.words for host in hosts.values())]
    numbers = {name: value for name, value in numbers.items() if name in _USUAL or _is_told(name, hosts)}
    words = {name: value for name, value in words.items() if name not in unheard}
    lacking = list(_lacking(numbers, words, hosts))
    fitting = [host for host in hosts.values() if host.fits(numbers, words)]
    if lacking:
        return Finding("nodes", "failed", f"{'; '.join(lacking)}; correct the site file, or pilots wait for ever")
    if unheard:
        told = f"pilots.constraint: no node tells of {', '.join(unheard)}; pilots may wait for ever"
        return Finding("nodes", "warning", f"{told}: `pbsnodes -av` shows what nodes have")
    return _enough(site.pilots.nodes, len(hosts), fitting)


def _enough(wanted: int, there: int, fitting: list[_Host]) -> Finding:
    up = sum(host.is_up for host in fitting)
    if len(fitting) < wanted:
        told = f"{len(fitting)} of {there} have all that pilots ask of each node, and a pilot has {wanted}"
        return Finding("nodes", "failed", f"{told}; lower pilots.nodes, or what each is to have")
    if up < wanted:
        told = f"{len(fitting)} fit, and {len(fitting) - up} of them are down or offline"
        return Finding("nodes", "failed", f"{told}; wait, or ask the facility (`pbsnodes -l` lists them)")
    return Finding("nodes", "ok", f"{up} of {there} could run a part of a pilot")


def _lacking(numbers: Mapping[str, int], words: Mapping[str, str], hosts: Mapping[str, _Host]) -> Iterator[str]:
    """What no host has."""
    for name, value in numbers.items():
        most = max((host.numbers.get(name, 0) for host in hosts.values()), default=0)
        unit = _MIB if name == "mem" else 1
        if value > most:
            setting = _USUAL.get(name, f"constraint, {name}")
            yield f"pilots.{setting}: expected ≤ {most // unit}, got {value // unit}"
    for name, word in words.items():
        there = sorted(set[str]().union(*(host.words.get(name, set()) for host in hosts.values())))
        if word not in there:
            yield f"pilots.constraint: no node has {name}={word}; nodes have: {', '.join(there)}"


def _is_told(name: str, hosts: Mapping[str, _Host]) -> bool:
    """Whether nodes tell of a resource, and how much each has: ``@`` stands before the place that has it."""
    words = set[str]().union(*(host.words.get(name, set()) for host in hosts.values()))
    return bool(words) and not any(word.startswith("@") for word in words)


def _wanted(pilots: Pilots) -> tuple[dict[str, int], dict[str, str]]:
    """The numbers and the words that a node is to have."""
    numbers = {"ncpus": pilots.cpus_per_node or 1, "ngpus": pilots.gpus_per_node}
    numbers["mem"] = pilots.memory_per_node_mib * _MIB
    numbers = {name: value for name, value in numbers.items() if value}
    words = {}
    for part in pilots.constraint.split(":") if pilots.constraint else ():
        name, _, value = part.partition("=")
        if name in _NO_NODES:
            continue
        number = _number(value)
        if number is None:
            words[name] = value
        else:
            numbers[name] = number
    return numbers, words


def _hosts(asked: Asked) -> dict[str, _Host]:
    if isinstance(asked, SchedulerError) or asked.exit_code:
        raise SchedulerError(no_answer(asked))
    told = decoded("pbsnodes", asked.stdout).get("nodes", {})
    if not isinstance(told, dict):
        raise SchedulerError("pbsnodes -av: cannot read its answer; run it by hand and look")
    hosts: dict[str, _Host] = {}
    for name, node in told.items():
        if not isinstance(node, dict):
            raise SchedulerError(f"pbsnodes -av: cannot read what it says of {name}; run it by hand and look")
        available: dict[str, Any] = node.get("resources_available", {})
        host = hosts.setdefault(str(available.get("host", name)), _Host())
        host.is_up = host.is_up or not _USELESS & set(str(node.get("state", "")).replace(" ", "").split(","))
        for resource, value in available.items():
            number = _number(str(value))
            if number is not None:
                host.numbers[resource] = host.numbers.get(resource, 0) + number
            host.words.setdefault(resource, set()).update(str(value).split(","))
    return hosts


def _number(text: str) -> int | None:
    """A number or a size in bytes."""
    found = _SIZE.fullmatch(text)
    return None if found is None else int(found[1]) * _BYTES[found[2].lower()]
