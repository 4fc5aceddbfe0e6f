"""What ``pbsnodes`` says about a site: whether there are nodes that could ever run its pilots. Pure.

PBS takes a job that no node can run, and lets it wait for ever. What a pilot asks for of a node is one chunk, which
lies on one host; a host may be several virtual nodes, and has what they have together.

Of what kind a resource is only PBS knows, and pbsnodes does not tell. So a value is a number, or true or false, where
those of all nodes are; else it is a word.

Source: pbs_node_attributes(7B) and pbs_resources(7B) of OpenPBS 23.06; the recorded answer of a server of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcserve.cluster.finding import Asked, Finding, no_answer
from hpcserve.cluster.pbs_json import decoded
from hpcserve.config import Pilots, Site
from hpcserve.errors import SchedulerError

_SIZE = re.compile(r"(\d+)([kmgtp]?)(b|w)?", re.IGNORECASE)
_FLOAT = re.compile(r"[+-]?\d*\.\d+|[+-]\d+")
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4, "p": 1024**5}
_TRUTHS = {
    **dict.fromkeys(("true", "t", "y", "1"), True),
    **dict.fromkeys(("false", "f", "n", "0"), False),
}
_USELESS = frozenset({"down", "offline", "stale", "state-unknown", "unresolvable", "Stale"})
_USUAL = {"ncpus": "cpus_per_node", "ngpus": "gpus_per_node", "mem": "memory_per_node_mib"}
_MIB = 1024**2
_MOST_SHOWN = 5
_NO_NODES = frozenset({"mpiprocs", "ompthreads"})
"""What a chunk may say that is not looked for at nodes."""
# One resource of a chunk: a value in quotes may hold the colon that else stands between two.
_RESOURCE = re.compile(r"""([^:=]+)=("[^"]*"|'[^']*'|[^:]*)""")


@dataclass(slots=True)
class _Host:
    """One host: the sums of its numbers, all its words, and whether any part of it can run jobs."""

    numbers: dict[str, float] = field(default_factory=dict)
    words: dict[str, set[str]] = field(default_factory=dict)
    is_up: bool = False


_Hosts = Mapping[str, _Host]


@dataclass(frozen=True, slots=True)
class _Wish:
    """What each node is to have: whether a host has it, what to say where none has, and ``resource=value``."""

    fits: Callable[[_Host], bool]
    lacking: str
    asked: str


def nodes(site: Site, asked: Asked) -> Finding:
    """Of ``pbsnodes -av -F json``: whether enough hosts have what each node of a pilot is to have."""
    try:
        hosts = _hosts(asked)
    except SchedulerError as error:
        return Finding("nodes", "warning", f"not compared with what pilots ask for: {error}")
    wanted = _wanted(site.pilots)
    wishes = [wish for name, value in wanted.items() if (wish := _wish(name, value, hosts)) is not None]
    lacking = [wish.lacking for wish in wishes if not any(map(wish.fits, hosts.values()))]
    if site.pilots.nodes > len(hosts):
        lacking.append(f"pilots.nodes: expected ≤ {len(hosts)}, got {site.pilots.nodes}")
    if lacking:
        return Finding("nodes", "failed", f"{'; '.join(lacking)}; correct the site file, or pilots wait for ever")
    unheard = [name for name in wanted if not _told(name, hosts)]
    if unheard:
        told = f"pilots.constraint: no node tells of {', '.join(unheard)}; pilots may wait for ever"
        return Finding("nodes", "warning", f"{told}: `pbsnodes -av` shows what nodes have")
    fitting = [host for host in hosts.values() if all(wish.fits(host) for wish in wishes)]
    return _enough(site.pilots.nodes, hosts, fitting, wishes)


def all_are(host: str, asked: Asked) -> bool:
    """Of the same answer: whether each node is this host.

    Raises:
        SchedulerError: It does not tell.
    """
    hosts = _hosts(asked)
    return bool(hosts) and all(_may_be_one(*pair) for pair in itertools.combinations((host, *hosts), 2))


def _may_be_one(host: str, other: str) -> bool:
    """Whether two names may be one host's: the same, or as far as the one goes that has no domain."""
    has_no_domain = "." not in host or "." not in other
    return host == other or (has_no_domain and host.partition(".")[0] == other.partition(".")[0])


def _enough(wanted: int, hosts: _Hosts, fitting: list[_Host], wishes: list[_Wish]) -> Finding:
    up, there = sum(host.is_up for host in fitting), len(hosts)
    if len(fitting) < wanted:
        told = f"{len(fitting)} of {there} have all that pilots ask of each node, and a pilot has {wanted}"
        lack = _misfits(hosts, wishes)
        return Finding("nodes", "failed", f"{told}; {lack}; lower pilots.nodes, or what each is to have")
    if up < wanted:
        told = f"{len(fitting)} fit, and {len(fitting) - up} of them are down or offline"
        return Finding("nodes", "failed", f"{told}; wait, or ask the facility (`pbsnodes -l` lists them)")
    return Finding("nodes", "ok", f"{up} of {there} could run a part of a pilot")


def _misfits(hosts: _Hosts, wishes: list[_Wish]) -> str:
    """Which hosts lack what of all that a node is to have."""
    lack = {name: [wish.asked for wish in wishes if not wish.fits(host)] for name, host in hosts.items()}
    found = [f"{name} lacks {' and '.join(asked)}" for name, asked in lack.items() if asked]
    more = len(found) - _MOST_SHOWN
    return "; ".join([*found[:_MOST_SHOWN], *([f"and {more} more lack some"] if more > 0 else [])])


def _wanted(pilots: Pilots) -> dict[str, str]:
    """What the chunk of a node asks for: resources and their values, as they stand there."""
    usual = {"ncpus": pilots.cpus_per_node or 1, "ngpus": pilots.gpus_per_node, "mem": pilots.memory_per_node_mib}
    found = {name: f"{value}mb" if name == "mem" else f"{value}" for name, value in usual.items() if value}
    further = {name: _unquoted(value) for name, value in _RESOURCE.findall(pilots.constraint)}
    return found | {name: value for name, value in further.items() if name not in _NO_NODES}


def _wish(name: str, value: str, hosts: _Hosts) -> _Wish | None:
    """None: nodes do not tell what they have of it."""
    told = _told(name, hosts)
    number, truth = _number(value), _TRUTHS.get(value.lower())
    if number is not None and all(_number(each) is not None for each in told):
        return _amount(name, number, hosts) if told or name in _USUAL else None
    if not told or any(each.startswith("@") for each in told):  # behind it stands the place that has it
        return None
    asked = f"{name}={value}"
    there = f"pilots.constraint: no node has {asked}; nodes have: {', '.join(sorted(told))}"
    if all(each.lower() in {"true", "false"} for each in told):
        return _Wish(lambda host: truth in _truths(name, host), there, asked)
    return _Wish(lambda host: value in host.words.get(name, ()), there, asked)


def _amount(name: str, value: float, hosts: _Hosts) -> _Wish:
    most = max((host.numbers.get(name, 0) for host in hosts.values()), default=0)
    setting, unit = _USUAL.get(name, f"constraint, {name}"), _MIB if name == "mem" else 1
    lacking = f"pilots.{setting}: expected ≤ {_in(most, unit)}, got {_in(value, unit)}"
    asked = f"{name}={_in(value, unit)}{'mb' if name == 'mem' else ''}"
    return _Wish(lambda host: host.numbers.get(name, 0) >= value, lacking, asked)


def _truths(name: str, host: _Host) -> set[bool]:
    """A node that does not say so has it not. Source: ``false_res`` of OpenPBS's scheduler."""
    return {_TRUTHS[word.lower()] for word in host.words.get(name, ("false",))}


def _told(name: str, hosts: _Hosts) -> set[str]:
    """The values that nodes have of a resource."""
    return set[str]().union(*(host.words.get(name, set()) for host in hosts.values()))


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


def _number(text: str) -> float | None:
    """A number or a size in bytes."""
    if _FLOAT.fullmatch(text):
        return float(text)
    found = _SIZE.fullmatch(text)
    return None if found is None else int(found[1]) * _BYTES[found[2].lower()]


def _in(value: float, unit: int) -> float:
    return value if unit == 1 else value // unit


def _unquoted(value: str) -> str:
    return value[1:-1] if value[:1] in {'"', "'"} and value[:1] == value[-1:] else value
