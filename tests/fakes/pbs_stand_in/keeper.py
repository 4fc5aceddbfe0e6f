"""What PBS's MoM is to one job: it runs the script, holds it to its walltime, obeys orders and tells the end.

As MoM does: the user's login shell, or that of ``-S``, leads the job's session and reads the script's path from its
standard input; a signal goes to all of that session, the shell too; and what is left of the session when the shell has
ended is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.fakes.pbs_stand_in import scheduling
from tests.fakes.pbs_stand_in.store import Job, State, Store

_WALLTIME_EXCEEDED = -29
_BY_SIGNAL = 256
_LOOKS_UP_S = 1.0
_NEWS = (signal.SIGCHLD, signal.SIGUSR1)


def order(job: Job, what: str) -> None:
    """Has a job's keeper do something: delete, requeue, lose, suspend or resume."""
    job["order"] = what
    if job.get("keeper"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(job["keeper"], signal.SIGUSR1)


def keep(store: Store, name: str, start: scheduling.Start) -> int:
    """Runs one job to its end, in a process that nobody has to wait for."""
    for each in _NEWS:
        signal.signal(each, lambda *_: None)  # it only wakes; what is new, the store tells
    if os.fork():
        return 0
    with store.changed() as state:
        job = state["jobs"].get(name)
        if job is None or job["state"] != "R":
            return 0
        job["keeper"] = os.getpid()
    Keeper(store, job, start).run()
    os._exit(0)


class Keeper:
    """One run of one job."""

    def __init__(self, store: Store, job: Job, start: scheduling.Start) -> None:
        self._store = store
        self._job = job
        self._start = start
        self._name: str = job["id"]
        self._umask = int(job["umask"] or "77", 8) if job.get("umask") is not None else 0o077
        self._why = ""  # what will have ended it
        self._kill_at = float("inf")
        self._ran_s = 0.0
        self._stopped = False
        self._lost: str | None = None

    def run(self) -> None:
        """Until the end of the job, whatever that is."""
        os.umask(self._umask)
        self._shell = self._begun()
        began = looked = time.monotonic()
        noted = False
        while self._shell.poll() is None:
            noted = noted or self._note_running(time.monotonic() - began)
            signal.sigtimedwait(_NEWS, min(_LOOKS_UP_S, max(0.02, self._left_s())))
            if self._store.is_orphaned():
                self._kill_all()
                return
            self._ran_s += 0.0 if self._stopped else time.monotonic() - looked
            looked = time.monotonic()
            self._obey()
            if self._left_s() <= 0 and not self._why:
                self._end("exceeded resource walltime")
            if looked >= self._kill_at:
                self._signal(signal.SIGKILL)
        self._signal(signal.SIGKILL)
        self._over()

    # --- begin ------------------------------------------------------------------------------------------

    def _begun(self) -> subprocess.Popen[bytes]:
        place, job = self._store.place, self._job
        script, nodes, temporary = (place / each / self._name for each in ("scripts", "aux", "tmp"))
        for each in (script.parent, nodes.parent, temporary):
            each.mkdir(parents=True, exist_ok=True)
        script.write_text(job["script"])
        script.chmod(0o700)
        hosts = [each.partition("/")[0] for each in job["exec_host"].split("+")]
        ranks = [chunk.get("mpiprocs", 1) for chunk in job["chunks"]]
        nodes.write_text("".join(f"{host}\n" * n for host, n in zip(hosts, ranks, strict=True)))
        home = str(self._store.home)
        user = job["owner"].partition("@")[0]
        environment = {
            **{name: value for name, value in job["variables"].items() if "INTERACTIVE" not in name},
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/bash",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBID": self._name,
            "PBS_JOBNAME": job["name"],
            "PBS_NODEFILE": str(nodes),
            "PBS_QUEUE": job["queue"],
            "PBS_JOBDIR": home,
            "PBS_NODENUM": "0",
            "PBS_TASKNUM": "1",
            "NCPUS": str(job["chunks"][0]["ncpus"]),
            "TMPDIR": str(temporary),
            # What /etc/profile.d/pbs.sh does for a login shell.
            "PBS_EXEC": str(place),
            "FAKE_PBS": str(place),
            **self._named_gpus(),
        }
        with contextlib.ExitStack() as files:
            output = files.enter_context(self._file("output").open("ab"))
            error = output if "oe" in job["join"] else files.enter_context(self._file("error").open("ab"))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEWS)  # what is blocked here would be in the job
            leading = job.get("shell") or "/bin/bash"
            shell = subprocess.Popen(
                [f"-{Path(leading).name}"],
                executable=leading,
                cwd=home,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=error,
                start_new_session=True,
                umask=self._umask,
            )
        signal.pthread_sigmask(signal.SIG_BLOCK, _NEWS)
        assert shell.stdin is not None
        with contextlib.suppress(BrokenPipeError), shell.stdin:
            shell.stdin.write(f"{script}\n".encode())
        return shell

    def _named_gpus(self) -> dict[str, str]:
        """Those of its first node. Source: ``setup_job_devices_env`` in OpenPBS's ``pbs_cgroups.PY``."""
        given = self._job["gpus"].get(self._job["placed"][0])
        named = given and self._store.read()["names_gpus"]
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, given))} if named else {}

    def _file(self, which: str) -> Path:
        """Where it is written: with ``-k doe`` where it was asked for, else on the node; it is copied at the end."""
        keep = self._job["keep"]
        if "d" in keep and which[0] in keep:
            return Path(self._job[which].split(":", 1)[1])
        return self._store.spool / f"{self._name}.{which}"

    def _note_running(self, since_s: float) -> bool:
        now = time.time()
        if since_s < self._setting("prerun_s"):
            return False
        with self._store.changed() as state:
            job = state["jobs"][self._name]
            job.update(substate=42, session=self._shell.pid, begun=now, mtime=int(now), home=str(self._store.home))
        return True

    # --- middle -----------------------------------------------------------------------------------------

    def _left_s(self) -> float:
        walltime = self._job["resources"].get("walltime")
        if walltime is None:
            return _LOOKS_UP_S
        hours, minutes, seconds = (int(each) for each in walltime.split(":"))
        return (hours * 60 + minutes) * 60 + seconds - self._ran_s

    def _obey(self) -> None:
        if "order" not in self._store.read()["jobs"][self._name]:
            return
        with self._store.changed() as state:
            job = state["jobs"][self._name]
            told = job.pop("order")
            if told in {"suspend", "resume"}:
                self._stopped = told == "suspend"
                job.update({"state": "S", "substate": 43} if self._stopped else {"state": "R", "substate": 42})
        if told == "delete":
            self._end(f"terminated by {self._job['owner']}")
        elif told == "suspend":
            self._signal(signal.SIGSTOP)
        elif told == "resume":
            self._signal(signal.SIGCONT)
        else:
            self._why = self._lost = told
            if told == "lose":
                self._kill_all()
            self._signal(signal.SIGKILL)

    def _end(self, why: str) -> None:
        """TERM now, KILL after ``kill_delay``."""
        self._why = why
        self._kill_at = time.monotonic() + self._setting("kill_delay_s")
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def _signal(self, which: int) -> None:
        for pid in _session(self._shell.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, which)

    def _kill_all(self) -> None:
        """Also what has left the session, as when a node loses its power."""
        marks = {f"FAKE_PBS={self._store.place}".encode(), f"PBS_JOBID={self._name}".encode()}
        for pid in _pids():
            with contextlib.suppress(OSError):
                if marks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                    os.kill(pid, signal.SIGKILL)
        self._signal(signal.SIGKILL)

    # --- end --------------------------------------------------------------------------------------------

    def _over(self) -> None:
        shutil.rmtree(self._store.place / "tmp" / self._name, ignore_errors=True)
        if self._lost is not None:
            if self._lost == "lose":
                self._wait("node_fail_requeue_s")
            with self._store.changed() as state:
                job = state["jobs"][self._name]
                if self._job["rerunnable"]:
                    scheduling.requeue(job)
                else:
                    self._finish(job, state, "failed", 91, exit_code=None)
                scheduling.cycle(state, self._start)
            return
        with self._store.changed() as state:
            job = state["jobs"][self._name]
            job.update(state="E", substate=51, mtime=int(time.time()), obittime=int(time.time()), used_s=self._ran_s)
            job["home"] = str(self._store.home)
        self._wait("exiting_s")
        if self._setting("delivers"):
            self._deliver()
        status = self._shell.returncode
        code = status if status >= 0 else _BY_SIGNAL - status
        why, substate = self._why, 91
        if why == "exceeded resource walltime":
            code, substate = _WALLTIME_EXCEEDED, 93
        elif not why:
            why, substate = ("finished", 92) if code == 0 else ("failed", 93)
        with self._store.changed() as state:
            self._finish(state["jobs"][self._name], state, why, substate, exit_code=code)
            scheduling.cycle(state, self._start)

    def _finish(self, job: Job, state: State, why: str, substate: int, exit_code: int | None) -> None:
        forget = job.pop("forget", False)
        scheduling.finish(state, job, substate=substate, why=why, exit_code=exit_code)
        if forget:
            state["jobs"].pop(self._name, None)

    def _wait(self, setting: str) -> None:
        """So long as the server is set to, now or later, unless nobody is there any more to see it."""
        began = time.monotonic()
        while time.monotonic() - began < self._setting(setting) and not self._store.is_orphaned():
            time.sleep(0.05)

    def _setting(self, name: str) -> float:
        return float(self._store.read()[name])

    def _deliver(self) -> None:
        for which in ("output", "error"):
            written, asked = self._file(which), Path(self._job[which].split(":", 1)[1])
            if written == asked or not written.exists():
                continue
            with contextlib.suppress(OSError):  # undeliverable, and who looks will not find it
                shutil.copyfile(written, asked)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _session(leader: int) -> list[int]:
    """The processes of a session, its leader first: they are signalled in this order."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(pid)
    return sorted(found, key=lambda pid: pid != leader)
