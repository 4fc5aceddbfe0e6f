"""A replica's command and environment."""

import json
import sys
from pathlib import Path

import pytest

from hpcserve.cluster.launchers import ProcessLauncher, SrunLauncher
from hpcserve.errors import ManifestError
from hpcserve.pilot.command import replica_command
from hpcserve.pilot.ranks import Place
from hpcserve.wire.launch import MpiRules

MPI = MpiRules()
HERE = Place(("here",), ((3,),))
INHERITED = {
    "PATH": "/bin",
    "SLURM_JOB_ID": "7",
    "HPCSERVE_HOME": "/home/me",
    "PYTHONPATH": "/modules",
    "PYTHONHOME": "/elsewhere",
    "PYTHONSTARTUP": "x.py",
    "PYTHONWARNINGS": "error",
}
OURS = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def manifest(**environment: str) -> str:
    return json.dumps({"name": "m", "loader": "python", "environment": environment})


def test_the_same_interpreter_keeps_the_facility_s_modules() -> None:
    command = replica_command(manifest(), HERE, slots=4, launcher=ProcessLauncher(MPI), inherited=INHERITED)
    assert command.argv[0] == sys.executable
    assert command.argv[-5:] == ("hpcserve.replica", "--node-slots", "4", "--ranks", "3")
    assert command.environment == {"PATH": "/bin", "SLURM_JOB_ID": "7", "PYTHONPATH": "/modules", **OURS}


def test_another_interpreter_is_not_bent_by_ours(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    command = replica_command(
        manifest(kind="venv", path=str(tmp_path)), HERE, slots=4, launcher=ProcessLauncher(MPI), inherited=INHERITED
    )
    assert command.argv[0] == str(python)
    assert command.environment == {"PATH": "/bin", "SLURM_JOB_ID": "7", **OURS}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": 1}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="not a manifest"):
        replica_command(text, HERE, slots=4, launcher=ProcessLauncher(MPI), inherited=INHERITED)


def test_the_site_s_prologue_comes_before_an_interpreter_of_the_user_s_own(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for kind in ("same", "venv", "conda"):
        path = {} if kind == "same" else {"path": str(tmp_path)}
        command = replica_command(
            manifest(kind=kind, **path),
            HERE,
            slots=4,
            launcher=SrunLauncher(MPI),
            inherited=INHERITED,
            prologue=("module use $HOME",),
        )
        assert command.argv[0] == "srun"
        assert ("module use $HOME" in command.argv) == (kind != "same"), "a word of its own, read by no other shell"
        assert command.argv[-5:] == ("hpcserve.replica", "--node-slots", "4", "--ranks", "3")
