"""Answers as they were recorded, by a scene: a JSON object that is read anew for each call.

Its keys: ``version``; ``import`` and ``init``, how those go wrong ("missing", "other Slurm", "fatal"); ``noise``,
whether each call writes to the descriptors 1 and 2 as Slurm's C code does; ``submitted``, a file that gets the fields
of each job, one a line; ``accounting``, its kind; and for each of ``ping``, ``jobs``, ``submit``, ``cancel`` and
``past`` (by job id) an answer in the shape of the recordings: ``exc_type``, ``errno`` and ``str``, or ``returned``, or
``show``. An answer may also say ``hold_s``, for how long the call holds the GIL, ``fatal``, that the process ends in
it, or ``babble``, what it writes where answers belong.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from .errors import RPCError

_BUILT_IN = {"ValueError": ValueError, "TypeError": TypeError, "AttributeError": AttributeError}


def fatal(message: str) -> NoReturn:
    """As Slurm's C code does it: no exception, no clean-up."""
    os.write(2, f"python: fatal: {message}\n".encode())
    os._exit(1)


class Recorded:
    def __init__(self, scene: str) -> None:
        self._scene = Path(scene)
        scene_now = self._read()
        self.version = scene_now.get("version", "25.11.2")
        match scene_now.get("import"):
            case "missing":
                raise ModuleNotFoundError("No module named 'pyslurm'", name="pyslurm")
            case "other Slurm":
                raise ImportError("libslurm.so.44: cannot open shared object file: No such file or directory")
            case "fatal":
                fatal("Could not establish a configuration source")

    def init(self, path: str | None) -> None:
        self._act("init")

    def ping(self, index: int) -> None:
        self._act("ping" if index == 0 else "ping of the backup")

    def jobs(self) -> list[SimpleNamespace]:
        found = self._act("jobs") or []
        return [job_of(each) for each in found]

    def submit(self, fields: dict[str, Any]) -> int:
        taken = self._read().get("submitted")
        if taken:
            with open(taken, "a") as file:
                file.write(json.dumps(fields) + "\n")
        return int(self._act("submit")["returned"])

    def cancel(self, job: int) -> None:
        self._act("cancel")

    def past(self, job: int) -> SimpleNamespace:
        answers = self._read().get("past", {})
        if str(job) not in answers:
            raise RPCError(-1, f"Job {job} does not exist on Cluster probe")
        return job_of(self._play(answers[str(job)]))

    def accounting(self) -> str | None:
        kind: str | None = self._read().get("accounting", "accounting_storage/slurmdbd")
        return kind

    def _read(self) -> dict[str, Any]:
        scene: dict[str, Any] = json.loads(self._scene.read_text())
        return scene

    def _act(self, call: str) -> Any:
        scene = self._read()
        if scene.get("noise"):
            os.write(1, b"slurm writes here\n")
            os.write(2, b"python: error: and slurm writes there\n")
        return self._play(scene.get(call))

    def _play(self, answer: Any) -> Any:
        if not isinstance(answer, dict):
            return answer
        if "hold_s" in answer:
            ctypes.PyDLL(None).usleep(int(answer["hold_s"] * 1e6))
        if "fatal" in answer:
            fatal(answer["fatal"])
        if "babble" in answer:
            babble(answer["babble"].encode())
        if "exc_type" in answer:
            raise exception_of(answer)
        return answer


def exception_of(answer: dict[str, Any]) -> Exception:
    name = answer["exc_type"].rpartition(".")[2]
    return RPCError(answer["errno"], answer["str"]) if name == "RPCError" else _BUILT_IN[name](answer["str"])


def job_of(answer: dict[str, Any]) -> SimpleNamespace:
    """The object that was recorded. It is ours if it does not say whose it is."""
    fields = {"name": None, "user_id": os.getuid(), "state_reason": None, "exit_code_signal": 0, **answer["show"]}
    number = re.search(r"\((\d+)\)", answer["returned"])
    assert number is not None
    return SimpleNamespace(id=int(number[1]), **fields)


def babble(data: bytes) -> None:
    """Writes to every pipe that is open for it: one of them is that of the answers."""
    for descriptor in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, data)
        except OSError:
            continue
