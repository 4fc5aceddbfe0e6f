"""The ``#SBATCH`` lines of a job script as the fields of pyslurm's ``JobSubmitDescription``. Pure.

pyslurm ignores these lines, and its own reader of them, ``load_sbatch_options``, loses what it does not know, takes
options that fit no field and cuts values at ``=`` and ``#``. This one reads what sbatch reads, in values that pyslurm
25.11 was seen to take, and refuses the rest: an option that is lost is worse than a job that is refused.

Source: sbatch(1) and the attributes of ``pyslurm.JobSubmitDescription``, 25.11.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping

from hpcserve.errors import JobRefused

Field = str | int | bool | dict[str, int]
Fields = dict[str, Field]

_DEFAULT_NAME = "sbatch"
_ADVICE = 'change it in the site file, or set scheduler.transport = "commands"'
_DEFAULT_WARNING_S = 60
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_SIGNAL = re.compile(r"(?:(?P<flags>[RB]{1,2}):)?(?P<name>\w+)(?:@(?P<time>\d+))?")

_SHORT = {
    "A": "account",
    "C": "constraint",
    "D": "chdir",
    "G": "gpus",
    "J": "job-name",
    "L": "licenses",
    "N": "nodes",
    "c": "cpus-per-task",
    "d": "dependency",
    "e": "error",
    "i": "input",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
}


def description(script: str, environment: Mapping[str, str], *, own: Mapping[str, str]) -> dict[str, object]:
    """All fields of the description of one job.

    Args:
        script: The whole job script.
        environment: What the job inherits where ``--export`` does not say otherwise.
        own: Variables that it gets in any case. pyslurm submits no job whose environment is empty.

    Raises:
        JobRefused: An option is not one that can be handed to pyslurm.
    """
    fields: Fields = {"name": _DEFAULT_NAME}
    export = "ALL"
    for option, value in options(script):
        if option == "export":
            export = value or ""
        else:
            found = _fields(option, value)
            if "gres_per_node" in found and "gres_per_node" in fields:  # --gres beside --gpus-per-node
                found = {"gres_per_node": f"{fields['gres_per_node']},{found['gres_per_node']}"}
            fields.update(found)
    # pyslurm's own default is one task, however many nodes: srun would then use one of them.
    fields.setdefault("ntasks", _fewest(fields.get("nodes", 1)) * int(str(fields.get("ntasks_per_node", 1))))
    return {**fields, "script": script, "environment": {**exported(export, environment), **own}}


def options(script: str) -> Iterator[tuple[str, str | None]]:
    """The options by their long names, in order; the value is None where there is none.

    Raises:
        JobRefused: A line is not one that sbatch would read.
    """
    for line in script.splitlines():
        if line.strip() and not line.startswith("#"):
            return
        if line.startswith("#SBATCH"):
            yield from _options_of(line)


def exported(export: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What ``--export=export`` passes on of ``environment``, ``SLURM_*`` left aside."""
    names = export.split(",")
    if "ALL" in names:
        return {**_given(names, environment), **environment}
    if names == ["NIL"]:
        return {}
    # The node then runs the user's login shell for the rest, as with sbatch.
    return {**_given(names, environment), "SLURM_GET_USER_ENV": "1"}


def _given(names: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    given = {}
    for each in names:
        name, assigned, value = each.partition("=")
        if assigned:
            given[name] = value
        elif name in environment:
            given[name] = environment[name]
    return given


def _options_of(line: str) -> Iterator[tuple[str, str | None]]:
    try:
        words = shlex.split(line.removeprefix("#SBATCH"))
    except ValueError as error:
        raise JobRefused(f"{line!r}: {error}; mend pilots.directives") from error
    while words and not words[0].startswith("#"):
        word = words.pop(0)
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
        elif word[:1] == "-" and word[1:2] in _SHORT:
            name, given, value = _SHORT[word[1:2]], word[2:], word[2:]
        else:
            name, given, value = word, "", ""
        wants = (name in _VALUES and name not in _FLAGS) or name == "export"
        if wants and not given and words and not words[0].startswith(("-", "#")):
            given = value = words.pop(0)
        yield name, value if given else None


def _fields(option: str, value: str | None) -> Fields:
    try:
        if option in _FLAGS and value is None:
            return dict([_FLAGS[option]])
        if option in _VALUES and value:
            name, read = _VALUES[option]
            return {name: read(value)}
    except ValueError as error:
        raise JobRefused(f"sbatch option {_written(option, value)}: {error}; {_ADVICE}") from error
    raise JobRefused(f"sbatch option {_written(option, value)} cannot be given to pyslurm; {_ADVICE}")


def _written(option: str, value: str | None) -> str:
    long = option if option.startswith("-") else f"--{option}"
    return long if value is None else f"{long}={value}"


def _fewest(nodes: Field) -> int:
    return int(str(nodes).partition("-")[0])


def _nodes(value: str) -> Field:
    if not re.fullmatch(r"\d+(-\d+)?", value):
        raise ValueError("expected a number or a range of nodes")
    return value if "-" in value else int(value)


def _minutes(value: str) -> Field:
    if value.upper() in {"UNLIMITED", "INFINITE"}:
        return "UNLIMITED"
    found = _TIME.fullmatch(value)
    if found is None:
        raise ValueError("expected minutes, H:MM:SS or D-HH:MM:SS")
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:
        parts = [*parts, 0, 0][:3]
    elif len(parts) < 3:
        parts = [0, *parts, 0][:3]
    seconds = ((int(found["days"] or 0) * 24 + parts[0]) * 60 + parts[1]) * 60 + parts[2]
    # pyslurm would take 0 for a limit of 0 minutes, sbatch takes it for none.
    return -(-seconds // 60) or "UNLIMITED"


def _signal(value: str) -> Field:
    found = _SIGNAL.fullmatch(value)
    if found is None:
        raise ValueError("expected [B:]SIGNAL[@SECONDS]")
    name = found["name"].upper()
    if not name.isdigit() and f"SIG{name.removeprefix('SIG')}" not in signal.Signals.__members__:
        raise ValueError(f"there is no signal {name}")
    flags = found["flags"] or ""
    return {
        # By its number, since pyslurm's reader of names knows SIGUSR1 and no USR1.
        "signal": int(name) if name.isdigit() else signal.Signals[f"SIG{name.removeprefix('SIG')}"].value,
        "time": int(found["time"] or _DEFAULT_WARNING_S),
        **({"batch_only": True} if "B" in flags else {}),
        **({"allow_reservation_overlap": True} if "R" in flags else {}),
    }


def _gpus(value: str) -> Field:
    return int(value) if value.isdigit() else value


def _gpus_per_node(value: str) -> Field:
    return f"gpu:{value}"


def _memory(value: str) -> Field:
    if not value.rstrip("KMGT").strip("0"):
        raise ValueError("pyslurm drops a 0, which means all of a node's memory")
    return value


def _open_mode(value: str) -> Field:
    return {"a": "append", "t": "truncate"}.get(value, value)


_VALUES: dict[str, tuple[str, Callable[[str], Field]]] = {
    "account": ("account", str),
    "begin": ("begin_time", str),
    "chdir": ("working_directory", str),
    "comment": ("comment", str),
    "constraint": ("constraints", str),
    "cpus-per-task": ("cpus_per_task", int),
    "dependency": ("dependencies", str),
    "error": ("standard_error", str),
    "exclude": ("excluded_nodes", str),
    "exclusive": ("resource_sharing", str),
    "gpus": ("gpus", _gpus),
    "gpus-per-node": ("gres_per_node", _gpus_per_node),
    "gres": ("gres_per_node", str),
    "input": ("standard_in", str),
    "job-name": ("name", str),
    "licenses": ("licenses", str),
    "mail-type": ("mail_types", str),
    "mail-user": ("mail_user", str),
    "mem": ("memory_per_node", _memory),
    "mem-per-cpu": ("memory_per_cpu", _memory),
    "network": ("network", str),
    "nodelist": ("required_nodes", str),
    "nodes": ("nodes", _nodes),
    "ntasks": ("ntasks", int),
    "ntasks-per-node": ("ntasks_per_node", int),
    "open-mode": ("log_files_open_mode", _open_mode),
    "output": ("standard_output", str),
    "partition": ("partitions", str),
    "qos": ("qos", str),
    "reservation": ("reservations", str),
    "signal": ("signal", _signal),
    "threads-per-core": ("threads_per_core", int),
    "time": ("time_limit", _minutes),
    "time-min": ("time_limit_min", _minutes),
    "wckey": ("wckey", str),
}
_FLAGS: dict[str, tuple[str, Field]] = {
    "exclusive": ("resource_sharing", "exclusive"),
    "no-kill": ("kill_on_node_fail", False),
    "no-requeue": ("is_requeueable", False),
    "requeue": ("is_requeueable", True),
}
