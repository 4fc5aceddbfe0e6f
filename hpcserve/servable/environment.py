"""Which command runs one of our modules in a servable's interpreter.

Both kinds go through :mod:`hpcserve.bootstrap`, so neither the current directory nor another
installation of hpcserve decides what is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpcserve import bootstrap
from hpcserve.errors import ManifestError
from hpcserve.servable.manifest import Environment


def python_of(environment: Environment) -> str:
    """The path of the interpreter; in a container, what it is called there.

    Raises:
        ManifestError: The virtual environment has no Python that we may run.
    """
    if environment.kind == "same":
        return sys.executable
    if environment.kind == "container":
        return environment.python
    python = Path(str(environment.path)) / "bin" / "python"
    if not python.is_file() or not os.access(python, os.X_OK):
        raise ManifestError(
            f"environment.path: no Python at {python}; make it with: python3 -m venv {environment.path} && "
            f"{environment.path}/bin/pip install pyzmq msgspec numpy"
        )
    return str(python)


def argv_for(environment: Environment, module: str, *arguments: str) -> list[str]:
    """The command line that runs ``module`` of hpcserve in the servable's interpreter.

    Args:
        environment: The manifest's ``[environment]``.
        module: A module to run as a program, such as ``hpcserve.servable.inspect``.
        arguments: Its command-line arguments.

    Raises:
        ManifestError: The interpreter is not there.
    """
    if environment.kind == "container":
        raise ManifestError(f"image {environment.image}: its interpreter runs in a container, not here")
    return [python_of(environment), str(Path(bootstrap.__file__).resolve()), module, *arguments]
