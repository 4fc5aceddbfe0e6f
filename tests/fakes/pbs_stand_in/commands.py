"""The commands themselves: what each is asked, what it prints, and the exit code it ends with.

Asked for several ids, ``qstat -F json`` tells of the first known one only: so the recordings, and openpbs/openpbs#2672.
Without ids, or with ``-E``, which is not recorded, the server is asked once, and tells of all. Nor is the
table recorded that ``qstat`` prints without ``-f``: it is that of qstat(1B), for people.
"""

from __future__ import annotations

import getopt
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fakes.pbs_stand_in import faults, keeper, listing, refusals, scheduling, submitting, words
from tests.fakes.pbs_stand_in.refusals import PbsError
from tests.fakes.pbs_stand_in.store import Job, State, Store

_JOB_ID = re.compile(r"(\d+)(\[\d*\])?(?:\.(.+))?")
_PROGRAM = Path(__file__).resolve().parents[1] / "pbs" / "qstat"


def main(argv: list[str]) -> int:
    """One command; its name is that of the link by which it was called."""
    command = Path(argv[0]).name
    place = Path(os.environ.get("FAKE_PBS") or Path(argv[0]).absolute().parent.parent)
    store = Store(place)
    if argv[1:2] == ["--keep"]:
        return keeper.keep(store, argv[2], starter(store))
    if argv[1:] == ["--version"]:
        print(f"pbs_version = {listing.VERSION}")
        return 0
    script = sys.stdin.read() if command == "qsub" else ""
    with (place / f"{command}.asked").open("a") as asked:
        asked.write(" ".join(argv[1:]) + "\n")
    fault = faults.of(store.read(), command)
    does = fault.get("does")
    if does == "down":
        return faults.down(store.read(), command)
    if does == "hang":
        faults.hang()
    if does == "refuses":
        sys.stderr.write(f"{command}: {fault['text']}\n")
        return int(fault["exit_code"])
    if does == "garbage":
        sys.stdout.write("<html>502 Bad Gateway</html>\n")
        return 0
    if does == "banner":
        sys.stdout.write(f"{fault['text']}\n")
    code, text = _answered(store, command, argv[1:], script)
    if does == "nothing":
        return 0
    if does == "silent":
        faults.hang()
    sys.stdout.write(text[: len(text) // 2] if does == "half" else text)
    return code


def starter(store: Store) -> scheduling.Start:
    """Begins keepers, each in a session of its own: it outlives the command, and what kills the command's group."""

    def start(name: str) -> None:
        with (store.place / "keepers.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-IS", str(_PROGRAM), "--keep", name],
                env={"FAKE_PBS": str(store.place), "PATH": "/usr/local/bin:/usr/bin:/bin"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=True,
            )

    return start


def _answered(store: Store, command: str, argv: list[str], script: str) -> tuple[int, str]:
    try:
        if command == "qsub":
            return 0, _qsub(store, argv, script)
        if command == "qdel":
            return _qdel(store, argv), ""
        return {"pbsnodes": _pbsnodes, "qselect": _qselect, "qstat": _qstat}[command](store.read(), argv)
    except PbsError as error:
        sys.stderr.write(f"{command}: {error}\n")
        return error.exit_code, ""


def _qsub(store: Store, argv: list[str], script: str) -> str:
    with store.changed() as state:
        job = submitting.submitted(state, argv, script)
        job["variables"]["PBS_O_HOME"] = str(store.home)
        state["jobs"][job["id"]] = job
        state["next"] += 1
        for index in _indices(job):
            part = {**job, "id": job["id"].replace("[]", f"[{index}]"), "index": index, "array_id": job["id"]}
            part.pop("indices")
            part["output"], part["error"] = (part[name].replace("^array_index^", str(index)) for name in _PATHS)
            state["jobs"][part["id"]] = part
        scheduling.cycle(state, starter(store))
    return f"{job['id']}\n"


_PATHS = ("output", "error")


def _indices(job: Job) -> range:
    first, _, last = job.get("indices", "1-0").partition("-")
    return range(int(first), int(last) + 1)


def _qdel(store: Store, argv: list[str]) -> int:
    options, names = _options(argv, "W:x")
    failed = 0
    for each in names:
        try:
            with store.changed() as state:
                _delete(store, state, _full(state, each), history="-x" in options)
                scheduling.cycle(state, starter(store))
        except PbsError as error:
            sys.stderr.write(f"qdel: {error}\n")
            failed = error.exit_code
    return failed


def _delete(store: Store, state: State, name: str, *, history: bool) -> None:
    job = state["jobs"].get(name)
    if job is None:
        raise refusals.unknown_job(name)
    user = f"{state['user']}@{state['host']}"
    if job["owner"] != user:
        raise refusals.unauthorized(name)
    if job["state"] == "F":
        if not history:
            raise refusals.has_finished(name)
        del state["jobs"][name]
        return
    if "keeper" in job and any(each["state"] == "down" and each["name"] in job["placed"] for each in state["nodes"]):
        raise refusals.no_mom(name)
    parts = [each for each in state["jobs"].values() if each.get("array_id") == name]
    for each in parts:
        if each["state"] != "F":
            _delete(store, state, each["id"], history=history)
    if "keeper" in job:
        job["forget"] = history
        keeper.order(job, "delete")
    elif history:
        del state["jobs"][name]
    else:
        scheduling.finish(state, job, substate=91, why=f"terminated by {user}", exit_code=None)


def _pbsnodes(state: State, argv: list[str]) -> tuple[int, str]:
    options, names = _options(argv, "avF:")
    if options.get("-F") != "json" or "-a" not in options or names:
        raise refusals.usage()
    return 0, words.as_json({**listing.heading(state), "nodes": listing.nodes(state)}) + "\n"


def _qselect(state: State, argv: list[str]) -> tuple[int, str]:
    """The ids of a user's jobs that have not ended, arrays among them. Not recorded; from qselect(1B)."""
    options, rest = _options(argv, "u:N:")
    if rest:
        raise refusals.usage()
    user, name = options.get("-u"), options.get("-N")
    found = [
        each["id"]
        for each in state["jobs"].values()
        if _is_asked(each, past=False, parts=False)
        and user in {None, each["owner"].partition("@")[0]}
        and name in {None, each["name"]}
    ]
    return 0, "".join(f"{each}\n" for each in found)


def _qstat(state: State, argv: list[str]) -> tuple[int, str]:
    options, names = _options(argv, "fF:xtTEJQBHu:")
    if "-u" in options:
        owned = [each for each in state["jobs"].values() if each["owner"].partition("@")[0] == options["-u"]]
        return 0, _estimates(state, [each["id"] for each in owned if _is_asked(each, past=False, parts=False)])
    if "-T" in options:
        return 0, _estimates(state, names)
    is_table = not options.keys() - {"-x", "-t"}
    if not is_table and ("-f" not in options or options.get("-F") != "json"):
        raise refusals.usage()
    if "-x" in options and not state["history"]:
        sys.stderr.write(f"qstat: {refusals.no_history(names[-1] if names else '')}\n")
        return 0, ""
    if is_table:
        code, jobs = _jobs(state, {**options, "-E": ""}, names)
        return code, listing.table(jobs)
    told: dict[str, Any] = listing.heading(state)
    code = 0
    if "-Q" in options:
        told["Queue"] = listing.queues(state)
    elif "-B" in options:
        told["Server"] = listing.server(state)
    else:
        code, jobs = _jobs(state, options, names)
        if jobs:
            told["Jobs"] = {job["id"]: listing.job(state, job) for job in jobs}
    return code, words.as_json(told) + "\n"


def _jobs(state: State, options: dict[str, str], names: list[str]) -> tuple[int, list[Job]]:
    """The jobs of the first question that was answered with any, and the exit code of the last that failed."""
    questions = [names] if "-E" in options or not names else [[name] for name in names]
    code = 0
    told: list[Job] = []
    for question in questions:
        found, error = _asked(state, options, question)
        if error is not None:
            sys.stderr.write(f"qstat: {error}\n")
            code = error.exit_code
        told = told or found
    return code, told


def _asked(state: State, options: dict[str, str], names: list[str]) -> tuple[list[Job], PbsError | None]:
    """One question to the server: whatever it knows of the names, or else why it knows nothing. No names: all jobs."""
    past, parts = "-x" in options, "-t" in options
    if not names:
        return [each for each in state["jobs"].values() if _is_asked(each, past=past, parts=parts)], None
    found: list[Job] = []
    error: PbsError | None = None
    for name in names:
        if name in state["queues"]:
            found += [each for each in state["jobs"].values() if each["queue"] == name]
            continue
        full = _full(state, name)
        job = state["jobs"].get(full)
        if job is None:
            error = refusals.unknown_job(full)
        elif job["state"] == "F" and not past:
            text = f"{full} Job has finished, use -x or -H to obtain historical job information"
            error = PbsError(35, text)
        else:
            found += [job, *(each for each in state["jobs"].values() if parts and each.get("array_id") == full)]
    return found, None if found else error


def _is_asked(job: Job, *, past: bool, parts: bool) -> bool:
    return (past or job["state"] != "F") and (parts or "index" not in job)


def _full(state: State, name: str) -> str:
    found = _JOB_ID.fullmatch(name)
    if found is None:
        raise refusals.unknown_queue()
    return f"{found[1]}{found[2] or ''}.{found[3] or state['host']}"


def _estimates(state: State, names: list[str]) -> str:
    """``qstat -T``: a table, whose last column is when a job will start, as far as that is known."""
    rows = [
        "",
        f"{state['host']}: ",
        " " * 75 + "Est",
        " " * 60 + "Req'd  Req'd   Start",
        "Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time",
        "--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----",
    ]
    for name in names:
        job = state["jobs"].get(_full(state, name))
        if job is None:
            raise refusals.unknown_job(_full(state, name))
        called = job["name"] if len(job["name"]) <= 10 else job["name"][:9] + "*"
        asked, user = job["resources"], job["owner"].partition("@")[0]
        time_ = str(asked.get("walltime", "--"))[:5]
        start = words.date(job["starts_at"])[11:16] if "starts_at" in job else "--"
        rows.append(
            f"{job['id']:15.15} {user:8.8} {job['queue']:8.8} {called:10} {job.get('session', '-- '):>6} "
            f"{asked['nodect']:3} {asked['ncpus']:3} {'-- ':>6} {time_:5} {job['state']} {start:>5}"
        )
    return "\n".join(rows) + "\n"


def _options(argv: list[str], known: str) -> tuple[dict[str, str], list[str]]:
    try:
        options, names = getopt.getopt(argv, known)
    except getopt.GetoptError as error:
        raise refusals.usage() from error
    return dict(options), names
