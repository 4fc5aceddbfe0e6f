"""Which command runs one of our modules in a servable's interpreter, with which variables, and why it could not.

All kinds go through :mod:`hpcserve.bootstrap`, so neither the current directory nor another installation of hpcserve
decides what is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcserve import bootstrap
from hpcserve.errors import ManifestError
from hpcserve.servable.activation import conda_steps, module_steps, prologue_steps, through
from hpcserve.servable.manifest import Environment

_MAKE = {
    "venv": "python3 -m venv {path} && {path}/bin/pip install pyzmq msgspec numpy",
    "conda": "conda create --prefix {path} --channel conda-forge python pyzmq msgspec numpy",
}


def python_of(environment: Environment) -> str:
    """The interpreter: its path, or the name by which it is found in a container or once modules are loaded.

    Raises:
        ManifestError: The environment's directory has no Python that we may run.
    """
    if environment.kind == "same":
        return sys.executable
    if environment.kind in ("module", "container"):
        return environment.python
    python = Path(str(environment.path)) / "bin" / "python"
    if not python.is_file() or not os.access(python, os.X_OK):
        make = _MAKE[environment.kind].format(path=environment.path)
        raise ManifestError(f"environment.path: no Python at {python}; make it with: {make}")
    return str(python)


def argv_for(environment: Environment, module: str, *arguments: str, prologue: Sequence[str] = ()) -> list[str]:
    """The command line that runs ``module`` of hpcserve in the servable's interpreter.

    Args:
        environment: The manifest's ``[environment]``.
        module: A module to run as a program, such as ``hpcserve.servable.inspect``.
        arguments: Its command-line arguments.
        prologue: Shell lines of the site that run before. Not for the daemon's own interpreter, which runs already.

    Raises:
        ManifestError: The interpreter is not there.
    """
    if environment.kind == "container":
        raise ManifestError(f"image {environment.image}: its interpreter runs in a container, not here")
    python = python_of(environment)
    ours = [str(Path(bootstrap.__file__).resolve()), module, *arguments]
    steps = prologue_steps(prologue) if environment.kind != "same" else []
    if environment.kind == "module":
        steps += module_steps(environment.modules)
    elif environment.kind == "conda":
        steps += conda_steps(Path(str(environment.path)))
    return through(steps, python, ours) if steps else [python, *ours]


def variables_for(environment: Environment, inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables for that command: without hpcserve's own, and what would bend another interpreter out of shape.

    PYTHONPATH stays for the daemon's own interpreter, and for one of modules: facilities' software modules set it, also
    those that are loaded already, which are not loaded again.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("HPCSERVE_", "PYTHON"))
        or (name == "PYTHONPATH" and environment.kind in ("same", "module"))
    }
    # No bytecode: the servable's directory is a published version, which nothing changes.
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def unfit(exit_code: int | None, log: str) -> str:
    """Why the environment is not fit to run our modules, as its last words say; empty where that is not the matter."""
    if exit_code != bootstrap.UNFIT:
        return ""
    said = [line for line in log.splitlines() if line.startswith(bootstrap.SAYS)]
    return said[-1].removeprefix(bootstrap.SAYS) if said else ""
