"""A stand-in for pyslurm 25.11.2, which can be installed beside a Slurm of that very release only.

It is found by the helper process alone, whose PYTHONPATH names the directory above. The file that the variable
PYSLURM_STANDIN names, a "scene", says what it answers (see :mod:`pyslurm.recorded`); where it is "commands" instead,
the answers are those of the real Slurm of this machine, got by its commands (see :mod:`pyslurm.commands`). It has the
names and the quirks that hpcserve meets, as they were recorded in tests/data/pyslurm-25.11, and nothing else.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from . import recorded
from .attributes import check
from .errors import PyslurmError, RPCError

__all__ = ["Job", "JobSubmitDescription", "Jobs", "PyslurmError", "RPCError", "db", "slurm_init", "slurmctld"]


class Backend(Protocol):
    """Where the answers come from."""

    version: str

    def init(self, path: str | None) -> None: ...

    def ping(self, index: int) -> None: ...

    def jobs(self) -> list[Any]: ...

    def submit(self, fields: dict[str, Any]) -> int: ...

    def cancel(self, job: int) -> None: ...

    def past(self, job: int) -> Any: ...

    def accounting(self) -> str | None: ...


def _backend() -> Backend:
    scene = os.environ["PYSLURM_STANDIN"]
    if scene == "commands":
        from .commands import Commands

        return Commands()
    return recorded.Recorded(scene)


_answers = _backend()
__version__ = _answers.version


def slurm_init(path: str | None = None) -> None:
    _answers.init(path)


class Job:
    def __init__(self, job: int) -> None:
        self.id = int(job)

    def cancel(self) -> None:
        _answers.cancel(self.id)


class Jobs(dict[int, Any]):
    @staticmethod
    def load() -> Jobs:
        return Jobs({job.id: job for job in _answers.jobs()})


class JobSubmitDescription:
    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def submit(self) -> int:
        check(self._fields)
        return _answers.submit(self._fields)


class slurmctld:  # noqa: N801 (a module of the real one)
    @staticmethod
    def ping(index: int) -> None:
        _answers.ping(index)

    class Config:
        accounting_storage_type: str | None

        @staticmethod
        def load() -> slurmctld.Config:
            config = slurmctld.Config()
            config.accounting_storage_type = _answers.accounting()
            return config


class db:  # noqa: N801 (a module of the real one)
    class Job:
        @staticmethod
        def load(job: int) -> Any:
            return _answers.past(job)


if not os.environ.get("PYSLURM_DISABLE_AUTO_INIT"):
    recorded.fatal("Could not establish a configuration source")
