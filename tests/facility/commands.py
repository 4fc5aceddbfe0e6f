"""Slurm's commands as a daemon on the box finds them: counted, and misbehaving when they are told to."""

from __future__ import annotations

import shutil
from pathlib import Path

BETWEEN = Path(__file__).resolve().parents[1] / "fakes" / "slurm-between" / "command"
NAMES = ("sbatch", "squeue", "sacct", "scancel")


class SlurmCommands:
    """A directory that is a daemon's whole PATH.

    Args:
        directory: Where the commands are put; all nodes see it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self.come_back()

    @property
    def variables(self) -> dict[str, str]:
        """For the environment of ``hpcserve up``."""
        return {"PATH": str(self._directory)}

    def asked(self, name: str) -> list[str]:
        """What a command was asked, a line each time."""
        noted = self._directory / f"{name}.asked"
        return noted.read_text().splitlines() if noted.exists() else []

    def submissions(self) -> int:
        """So many jobs a daemon has tried to submit."""
        return len(self.asked("sbatch"))

    def misbehave(self, how: str) -> None:
        """From now on all of them hang, print garbage, print half of their answer, or are missing."""
        for name in NAMES:
            if how == "missing":
                (self._directory / name).unlink()
            else:
                (self._directory / f"{name}.does").write_text(f"{how}\n")

    def come_back(self) -> None:
        """From now on they do what Slurm's do."""
        for name in NAMES:
            (self._directory / f"{name}.does").unlink(missing_ok=True)
            if not (self._directory / name).exists():
                shutil.copy(BETWEEN, self._directory / name)
