"""What ``qstat -f -F json`` answers, of PBS Pro from 14.2 on and OpenPBS, as records. No I/O, and no word of meaning.

PBS's JSON has its own ways, which are all read here:

* A value that looks like a number stands there bare, whatever it is: a variable ``1`` as 1. So numbers are kept as they
  are written. One that is no JSON number, such as ``005``, makes older releases' answers invalid; it is put in quotes.
* Older releases leave control characters and backslashes of variables as they are.
* They also begin each job with a ``Jobs`` of its own. A key that comes twice with two values has none.
* Asked for several jobs by their ids, 23.06 prints the first of them alone. Who is not there need not be gone.
* Without any job there is no ``Jobs``.
* What still is no JSON has each field of a job in a line of its own; those that can be read alone are.
* A site's wrapper, or a login, may print lines before it: it begins with the first line that begins with ``{``.
* An id is ``2.server``, ``2``, ``3[].server`` for an array or ``3[1].server`` for a part of one.

Source: the recorded answers of 23.06; openpbs pull requests 585 and 2049, issues 1255, 2541 and 2672.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hpcserve.cluster.seam import JobId
from hpcserve.errors import SchedulerError

_SHOWN_BYTES = 200
_NUMBER = re.compile(r"-?\d{1,18}")
_ID = re.compile(r"(\d+(?:\[\d*\])?)(?:\.([\w.-]+))?")
# A line of a bare value that JSON does not know, and a backslash before what needs none.
_BARE = re.compile(r'^(\s*"[^"\n]*":\s*)([^\s"{\[][^\n]*?)(,?)[ \t]*$', re.MULTILINE)
_BACKSLASH = re.compile(r'\\(?!["\\/bfnrt]|u[0-9a-fA-F]{4})')
_JSON_WORD = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_BEGINS = re.compile(rb"^[ \t]*\{", re.MULTILINE)
_CTIME = "%a %b %d %H:%M:%S %Y"
_WHOLE = re.compile(r"\s*\{.*\n\}\s*", re.DOTALL)
_HEAD = re.compile(r'^[ \t]*"([^"\n]+)":[ \t]*\{\n([ \t]+)(?="Job_Name":)', re.MULTILINE)


class _Several(list[object]):
    """The values of a key that came more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PbsJob:
    """One job, in PBS's own words.

    Attributes:
        job: Its id, as the answer has it.
        name: Its name, by which it is found again.
        owner: Whose it is, without the host.
        state: Its letter, such as ``Q``.
        substate: Its number; None: not told.
        exit_status: PBS's, not a plain exit code; None: there is none.
        run_count: How often it was sent to nodes; 0: never yet.
        hosts: The nodes that run it or ran it, each once, the first one first.
        comment: What PBS says beside it.
        hold_types: Who holds it: letters of ``uosp``; empty: nobody.
        starts_in_s: The guess of PBS's scheduler, by the clock of the answer; None: it makes none, or it has passed.
        problem: Why nothing else of it can be relied on; empty for a job that is well told of.
    """

    job: JobId
    name: str = ""
    owner: str = ""
    state: str = ""
    substate: int | None = None
    exit_status: int | None = None
    run_count: int = 0
    hosts: tuple[str, ...] = ()
    comment: str = ""
    hold_types: str = ""
    starts_in_s: float | None = None
    problem: str = ""


def parse_jobs(stdout: bytes) -> list[PbsJob]:
    """The jobs in an answer of ``qstat -f -F json``.

    Raises:
        SchedulerError: It is no whole answer.
    """
    answer = decoded("qstat", stdout)
    jobs = answer.get("Jobs", {})
    if not isinstance(jobs, dict):
        raise _unreadable("qstat", stdout, "its Jobs are no object")
    now_s = _time(answer.get("timestamp"))
    return [_job(name, fields, now_s) for name, fields in jobs.items()]


def parted(stdout: bytes) -> tuple[bytes, bytes]:
    """(what others print before an answer, the answer); where no line begins one, all is of others."""
    found = _BEGINS.search(stdout)
    at = len(stdout) if found is None else found.start()
    return stdout[:at], stdout[at:]


def is_whole(stdout: bytes) -> bool:
    """Whether an answer ends as it should, readable or not: half of one is none."""
    return _WHOLE.fullmatch(parted(stdout)[1].decode(errors="replace")) is not None


def parse_lines(stdout: bytes) -> PbsJob | None:
    """The one job of a whole answer that is no JSON; None where that is not to be seen.

    What has spoilt it is a value, of a variable as a rule: it is left out, and so is what has lines of its own.
    """
    text = stdout.decode(errors="replace")
    heads = list(_HEAD.finditer(text)) if is_whole(stdout) else []
    if len(heads) != 1:
        return None
    name, indent = heads[0].groups()
    fields: dict[str, Any] = {}
    for line in re.findall(rf'^{indent}("[^"\n]+":[^\n]*?),?[ \t]*$', text[heads[0].start(2) :], re.MULTILINE):
        with contextlib.suppress(ValueError):
            fields = _read_text(f"{{\n{line}\n}}") | fields  # the first of a name: after it come others' values
    return _job(name, fields, None)


def decoded(command: str, stdout: bytes) -> dict[str, Any]:
    """Any answer of a PBS command in JSON, numbers as strings.

    Raises:
        SchedulerError: It is no whole answer.
    """
    try:
        answer = _read_text((parted(stdout)[1] or stdout).decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise _unreadable(command, stdout, str(error)) from error
    # Each answer says when and by whom it was given; anything else is another program's.
    if not isinstance(answer, dict) or "timestamp" not in answer:
        raise _unreadable(command, stdout, "it is none of PBS")
    return answer


def same_job(one: str, other: str) -> bool:
    """Whether two ids name one job, each with or without the server's name, in full or its first part."""
    (number, server), (other_number, other_server) = id_parts(one), id_parts(other)
    if not number or number != other_number:
        return False
    return not server or not other_server or server.split(".")[0] == other_server.split(".")[0]


def id_parts(name: str) -> tuple[str, str]:
    """(number with an array's brackets, server) of a job's id; two empty ones for what is no id."""
    found = _ID.fullmatch(name)
    return ("", "") if found is None else (found[1], found[2] or "")


def hosts_of(exec_host: str, exec_vnode: str = "") -> tuple[str, ...]:
    """The nodes in ``node1/0*4+node2/0*4``, each once; without that, those of ``(node1:ncpus=4)+(node2[0]:ncpus=4)``.

    A vnode is a part of a node on some machines, and ``[0]`` behind its name is not the node's.
    """
    told = [chunk.partition("/")[0] for chunk in exec_host.split("+")]
    if not any(told):
        told = [chunk.strip("()").partition(":")[0].partition("[")[0] for chunk in exec_vnode.split("+")]
    return tuple(dict.fromkeys(name for name in told if name))


def _read_text(text: str) -> Any:
    try:
        return _loaded(text)
    except ValueError:
        return _loaded(_mended(text))


def _loaded(text: str) -> Any:
    return json.loads(
        text,
        strict=False,
        parse_int=str,
        parse_float=str,
        parse_constant=str,
        object_pairs_hook=_object,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key not in found or found[key] == value:
            found[key] = value
        elif isinstance(found[key], dict) and isinstance(value, dict):
            found[key] = _object([*found[key].items(), *value.items()])
        else:
            found[key] = _Several([found[key], value])
    return found


def _mended(text: str) -> str:
    def quoted(found: re.Match[str]) -> str:
        before, value, comma = found.groups()
        return found[0] if _JSON_WORD.fullmatch(value) else f"{before}{json.dumps(value)}{comma}"

    return _BARE.sub(quoted, _BACKSLASH.sub("", text))


def _job(name: str, fields: object, now_s: float | None) -> PbsJob:
    try:
        return _read(name, fields, now_s)
    except ValueError as error:
        told = fields.get("Job_Name") if isinstance(fields, dict) else None
        return PbsJob(
            job=JobId(name), name=told if isinstance(told, str) else "", problem=f"job {name} cannot be read: {error}"
        )


def _read(name: str, fields: object, now_s: float | None) -> PbsJob:
    if not isinstance(fields, dict):
        raise ValueError(f"expected its fields, got {str(fields)[:_SHOWN_BYTES]!r}")  # noqa: TRY004 (a value)
    holds = _text(fields, "Hold_Types")
    return PbsJob(
        job=JobId(name),
        name=_text(fields, "Job_Name"),
        owner=_text(fields, "Job_Owner").partition("@")[0],
        state=_text(fields, "job_state"),
        substate=_number(fields, "substate"),
        exit_status=_number(fields, "Exit_status"),
        run_count=max(0, _number(fields, "run_count") or 0),
        hosts=hosts_of(_text(fields, "exec_host"), _text(fields, "exec_vnode")),
        comment=" ".join(_text(fields, "comment").split()),
        hold_types="" if holds == "n" else holds,
        starts_in_s=_starts_in_s(fields, now_s),
    )


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected one value, got {str(value)[:_SHOWN_BYTES]!r}")  # noqa: TRY004 (a value)
    return value


def _number(fields: Mapping[str, object], key: str) -> int | None:
    value = _text(fields, key)
    if key not in fields:
        return None
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"{key}: expected a number, got {value[:_SHOWN_BYTES]!r}")
    return int(value)


def _starts_in_s(fields: Mapping[str, object], now_s: float | None) -> float | None:
    """A guess that cannot be read is none: nothing but a wait is told by it."""
    estimated = fields.get("estimated")
    told = estimated.get("start_time") if isinstance(estimated, dict) else fields.get("estimated.start_time")
    at_s = _time(told)
    return None if at_s is None or now_s is None or at_s < now_s else at_s - now_s


def _time(told: object) -> float | None:
    """Seconds since 1970, from these or from a time as ctime(3) writes it, in this machine's time zone."""
    if not isinstance(told, str):
        return None
    if _NUMBER.fullmatch(told):
        return float(told)
    try:
        return datetime.strptime(told, _CTIME).astimezone().timestamp()
    except (ValueError, OverflowError):
        return None


def _unreadable(command: str, stdout: bytes, why: str) -> SchedulerError:
    shown = repr(stdout.strip()[:_SHOWN_BYTES]).removeprefix("b")
    return SchedulerError(f"cannot read the answer of {command} -F json: {why}: {shown}; run it by hand and look")
