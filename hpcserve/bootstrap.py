"""Runs a module of this very installation of hpcserve in any Python >= 3.10.

``PYTHON /path/to/hpcserve/bootstrap.py hpcserve.replica ARGUMENTS`` makes the package ``hpcserve`` known
from the directory of this file, without putting the site-packages around it on the interpreter's path: a
servable's own environment needs pyzmq, msgspec and numpy, and sees its own versions of everything.

An interpreter that is too old or lacks these packages is told of in one line on standard error, and by the exit code
:data:`UNFIT`. So this file has to be understood by Python 3.6 too.
"""

import sys

_HERE = __file__.rpartition("/")[0]
CONTAINED = "/opt/hpcserve"
"""Below it this package, ``hpcserve``, is seen in a container."""
PACKAGES = CONTAINED + "/packages"
"""There, packages for an image whose Python lacks some; those of the image come first."""

if __name__ == "__main__":
    # Before any other import: Python puts this directory first on the path, where our ``types.py`` would
    # stand for the standard library's.
    sys.path[:] = [entry for entry in sys.path if entry != _HERE]
    if _HERE == CONTAINED + "/hpcserve":
        sys.path.append(PACKAGES)

import importlib.util  # noqa: E402
import os  # noqa: E402
import runpy  # noqa: E402
from typing import NoReturn  # noqa: E402

UNFIT = 94
"""The exit code of a process whose environment is not fit to run our modules, of an activation that failed too. It
keeps clear of those of shells, interpreters, and :mod:`hpcserve.wire.exits`."""
SAYS = "hpcserve cannot run here: "
"""So begins the line on standard error that tells why; no servable prints such a one."""
OLDEST = (3, 10)
NEEDED = {"zmq": "pyzmq", "msgspec": "msgspec", "numpy": "numpy"}
"""What every environment must have: modules, and the packages that they come from."""


def register(directory: str) -> None:
    """Makes ``import hpcserve`` load the package in ``directory``, if it is not loaded yet."""
    if "hpcserve" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "hpcserve", f"{directory}/__init__.py", submodule_search_locations=[directory]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package hpcserve in {directory}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["hpcserve"] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Runs the module that the first argument names, with the others as its arguments."""
    if len(sys.argv) < 2:
        sys.exit("usage: PYTHON bootstrap.py MODULE [ARGUMENT ...]")
    if sys.version_info < OLDEST:
        version, oldest = (".".join(map(str, each)) for each in (sys.version_info[:3], OLDEST))
        _refuse(f"is Python {version}, and a servable needs {oldest} or later: make its environment with a later one")
    register(_HERE)
    del sys.argv[0]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
        _refuse(
            f"lacks {', '.join(missing)}: the environment needs pyzmq, msgspec and numpy; install what is missing there"
            f" by {sys.executable} -m pip install {' '.join(missing)}, or take a virtual environment that has them"
        )


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"{SAYS}{sys.executable} on {os.uname()[1]} {why}\n")
    sys.exit(UNFIT)


if __name__ == "__main__":
    main()
