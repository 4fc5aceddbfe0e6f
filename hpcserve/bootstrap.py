"""Runs a module of this very installation of hpcserve in any Python >= 3.10.

``PYTHON /path/to/hpcserve/bootstrap.py hpcserve.replica ARGUMENTS`` makes the package ``hpcserve`` known
from the directory of this file, without putting the site-packages around it on the interpreter's path: a
servable's virtual environment needs pyzmq, msgspec and numpy, and sees its own versions of everything.
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
import runpy  # noqa: E402


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
    register(_HERE)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
