"""What the answers of Slurm's commands say about a site: does it fit this cluster, and if not, what to do. Pure.

How the commands are run is told in :mod:`hpcserve.cluster.site_slurm`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from hpcserve.cluster.finding import Asked, Finding, no_answer, on_one_line, printed
from hpcserve.config import Mpi, Pilots
from hpcserve.errors import SchedulerError

_FEATURE = re.compile(r"[A-Za-z_][\w.:+-]*")
_MPI = re.compile(r"none|openmpi|pmi\w*|cray\w*")
# Source: scontrol(1) and slurm.conf(5): the forms of a time are D-HH:MM:SS, D-HH:MM, D-HH, HH:MM:SS, MM:SS and MM.
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
# Source: sinfo(1), NODE STATE CODES: these start no job, and these marks stand behind a state.
_USELESS = frozenset({"down", "drained", "draining", "fail", "failing", "error", "unknown", "inval"})
_STATE_MARKS = "*~#!%$@^-+"


def version(asked: Asked) -> Finding:
    """Of ``sinfo --version``."""
    if isinstance(asked, SchedulerError) or asked.exit_code:
        return Finding("Slurm", "failed", no_answer(asked))
    return Finding("Slurm", "ok", on_one_line(asked))


def mpi(pmi: str, asked: Asked) -> Finding:
    """Of ``srun --mpi=list``: whether Slurm has the interface by which ranks are to find one another.

    Source: what srun prints; of Slurm 22.05 ``MPI plugin types are...``, and the names one below the other.
    """
    if isinstance(asked, SchedulerError) or asked.exit_code:
        return Finding("mpi", "skipped", f"srun does not say which MPI it has: {no_answer(asked)}")
    text = f"{printed(asked)}\n{asked.stderr}"
    names = {word for line in text.splitlines() for word in line.rpartition(":")[2].replace(",", " ").split()}
    there = sorted(name for name in names if _MPI.fullmatch(name))
    if pmi in there:
        return Finding("mpi", "ok", f"srun --mpi={pmi}")
    told = f"mpi.pmi: this Slurm has no {pmi!r}, so no replica of several ranks would start; it has {', '.join(there)}"
    return Finding("mpi", "warning" if pmi == Mpi().pmi else "failed", f"{told}: set mpi.pmi to one of them")


def controller(asked: Asked) -> Finding:
    """Of ``scontrol ping``."""
    if isinstance(asked, SchedulerError):
        return Finding("slurmctld", "failed", str(asked))
    said = on_one_line(asked)
    if asked.exit_code or " UP" not in said:
        return Finding("slurmctld", "failed", f"{said or no_answer(asked)}; ask the facility, or try again later")
    return Finding("slurmctld", "ok", said)


def account(pilots: Pilots, asked: Asked) -> Iterator[Finding]:
    """Of ``sacctmgr --noheader --parsable2 show associations user=… format=account,partition,qos``."""
    if isinstance(asked, SchedulerError) or asked.exit_code:
        yield Finding("account", "skipped", f"accounting does not answer: {no_answer(asked)}")
        return
    rows = [line.split("|") for line in printed(asked).splitlines() if line.count("|") == 2]
    accounts = sorted({row[0] for row in rows})
    if not accounts:
        yield Finding("account", "skipped", "accounting lists no account of yours, so none can be compared")
        return
    yours = f"yours: {', '.join(accounts)}"
    if not pilots.account:
        yield Finding("account", "ok", f"your default one; {yours}")
    elif pilots.account in accounts:
        yield Finding("account", "ok", pilots.account)
    else:
        yield _wrong("account", pilots.account, yours)
        return
    allowed = sorted({qos for row in rows if pilots.account in ("", row[0]) for qos in row[2].split(",") if qos})
    if pilots.qos and allowed:
        fits = pilots.qos in allowed
        listed = f"this account has: {', '.join(allowed)}"
        yield Finding("qos", "ok", pilots.qos) if fits else _wrong("qos", pilots.qos, listed)


def partition(pilots: Pilots, asked: Asked) -> Finding:
    """Of ``scontrol --oneliner show partition``."""
    if isinstance(asked, SchedulerError) or asked.exit_code:
        return Finding("partition", "failed", no_answer(asked))
    found = {
        each["PartitionName"]: each for each in map(_fields, printed(asked).splitlines()) if "PartitionName" in each
    }
    default = next((name for name, each in found.items() if each.get("Default") == "YES"), "")
    name = pilots.partition or default
    if not name:
        return Finding(
            "partition", "failed", f"this cluster has no default one: set pilots.partition to one of {_list(found)}"
        )
    # Several may be named; the job goes to the one that begins it first.
    wrong = {each: list(_against(pilots, found.get(each), found)) for each in name.split(",")}
    bad = [f"{each}: {why}" for each, reasons in wrong.items() for why in reasons]
    if bad:
        return Finding("partition", "failed", "; ".join(bad))
    shown = ", ".join(f"{each}, up, at most {found[each].get('MaxTime', '?')}" for each in wrong)
    return Finding("partition", "ok", shown if pilots.partition else f"{shown} (the default)")


def nodes(pilots: Pilots, asked: Asked) -> Finding:
    """Of ``sinfo --noheader --format=%P %T``: whether any node could run a job now or later."""
    if isinstance(asked, SchedulerError) or asked.exit_code:
        return Finding("nodes", "failed", no_answer(asked))
    rows = [line.split() for line in printed(asked).splitlines() if len(line.split()) == 2]
    wanted = pilots.partition.split(",") if pilots.partition else [name[:-1] for name, _ in rows if name.endswith("*")]
    states = {state.rstrip(_STATE_MARKS) for name, state in rows if name.rstrip("*") in wanted}
    if states and states <= _USELESS:
        told = f"all nodes of partition {', '.join(sorted(set(wanted)))} are {' or '.join(sorted(states))}"
        return Finding("nodes", "failed", f"{told}; `sinfo -R` says why: wait, or set another pilots.partition")
    return Finding("nodes", "ok", ", ".join(sorted(states)) or "none listed")


def _against(pilots: Pilots, found: Mapping[str, str] | None, known: Mapping[str, object]) -> Iterator[str]:
    if found is None:
        yield f"there is no such partition; correct pilots.partition: there are {_list(known)}"
        return
    if found.get("State", "UP") != "UP":
        yield f"its state is {found['State']}; wait, or set another pilots.partition"
    longest_s = time_s(found.get("MaxTime", ""))
    if longest_s is not None and pilots.walltime_s > longest_s:
        yield f"pilots.walltime_s: expected ≤ {longest_s:g}, got {pilots.walltime_s:g}"
    for field, limit in (("MaxNodes", "≤"), ("TotalNodes", "≤"), ("MinNodes", "≥")):
        told = found.get(field, "")
        if told.isdigit() and (pilots.nodes > int(told) if limit == "≤" else pilots.nodes < int(told)):
            yield f"pilots.nodes: expected {limit} {told} ({field}), got {pilots.nodes}"
            return


def time_s(text: str) -> float | None:
    """A time as Slurm writes it; None: no limit, or something else."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    days, *rest = found.groups()
    parts = [int(each) for each in rest if each is not None]
    if days is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)


def constraint(pilots: Pilots, asked: Asked) -> Finding:
    """Of ``sinfo --noheader --format=%f``, the features of the nodes."""
    if isinstance(asked, SchedulerError) or asked.exit_code:
        return Finding("constraint", "failed", no_answer(asked))
    features = {each for line in printed(asked).split() for each in line.split(",")} - {"(null)", ""}
    unknown = [each for each in _FEATURE.findall(pilots.constraint) if each not in features]
    if unknown:
        return _wrong("constraint", ", ".join(unknown), f"nodes have: {_list(features)}")
    return Finding("constraint", "ok", pilots.constraint)


def submission(asked: Asked) -> Finding:
    """Of ``sbatch --test-only`` with the job script: what slurmctld itself says of it."""
    if isinstance(asked, SchedulerError):
        return Finding("job script", "failed", str(asked))
    said = " ".join((asked.stderr or on_one_line(asked)).replace("sbatch: ", "").split())
    if asked.exit_code:
        return Finding("job script", "failed", f"Slurm would refuse it: {said}; look at it: hpcserve site render")
    return Finding("job script", "ok", f"Slurm would take it: {said}")


def transport(wanted: str, unusable: str) -> Finding:
    """Which way to Slurm the daemon would take.

    Args:
        wanted: ``scheduler.transport``.
        unusable: Why pyslurm cannot be used here; empty where it can.
    """
    if wanted == "commands":
        return Finding("transport", "ok", "Slurm's commands, as the site wants")
    if not unusable:
        return Finding("transport", "ok", "pyslurm")
    if wanted == "pyslurm":
        told = f'{unusable}; set scheduler.transport to "auto" or "commands"'
        return Finding("transport", "failed", told)
    return Finding("transport", "ok", f"Slurm's commands: {unusable}")


def _wrong(field: str, value: str, there_are: str) -> Finding:
    return Finding(field, "failed", f"pilots.{field}: {value!r} is unknown here; {there_are}")


def _fields(line: str) -> dict[str, str]:
    return {key: value for key, found, value in (word.partition("=") for word in line.split()) if found}


def _list(names: object) -> str:
    assert isinstance(names, Mapping | set)
    return ", ".join(sorted(names)) or "none"
