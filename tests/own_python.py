"""Interpreters of users' own, as tests need them: virtual environments, a prefix like conda's, modules of a site."""

from __future__ import annotations

import json
import os
import textwrap
import venv
from importlib import import_module
from pathlib import Path

import pytest

MODULES_INIT = Path("/usr/share/modules/init/bash")
NEEDED = ("zmq", "msgspec", "numpy")


def make_venv(place: Path, *packages: str) -> Path:
    """A virtual environment without hpcserve, and with these packages of ours alone."""
    venv.create(place, with_pip=False, symlinks=True)
    site_packages = next((place / "lib").glob("python*/site-packages"))
    for module in packages:
        package = Path(str(import_module(module).__file__)).parent
        for part in package.parent.glob(f"{package.name}*"):
            if not part.name.endswith(".dist-info"):
                (site_packages / part.name).symlink_to(part)
        libraries = package.parent / f"py{package.name}.libs"
        if libraries.exists():
            (site_packages / libraries.name).symlink_to(libraries)
    return place


def make_conda(place: Path, *packages: str) -> Path:
    """What conda leaves of an environment that matters to whoever activates it; its Python is that of a venv."""
    make_venv(place, *packages)
    (place / "conda-meta").mkdir()
    for when in ("activate", "deactivate"):
        (place / "etc" / "conda" / f"{when}.d").mkdir(parents=True)
    return place


def make_module(root: Path, name: str, text: str) -> Path:
    """A module file ``name`` below ``root``, for ``module use``."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#%Module1.0\n" + textwrap.dedent(text))
    return root


def need_modules() -> None:
    """Skips the test where there are no environment modules; where ``make test`` installs them that is an error."""
    if MODULES_INIT.exists():
        return
    why = "no environment modules here; on Debian: apt-get install environment-modules"
    if os.environ.get("CI") or (os.geteuid() == 0 and Path("/etc/debian_version").exists()):
        pytest.fail(why)
    pytest.skip(why)


def make_servable(place: Path, name: str, **environment: object) -> Path:
    """The servable ``whence`` under another name, with this ``[environment]``."""
    place.mkdir(parents=True)
    whence = Path(__file__).parent / "data" / "servables" / "whence" / "whence.py"
    (place / "whence.py").write_bytes(whence.read_bytes())
    head = [f'name = "{name}"', 'loader = "python"', 'entry = "whence:tell"', "[environment]"]
    fields = (f"{name} = {json.dumps(value)}" for name, value in environment.items())
    (place / "servable.toml").write_text("\n".join([*head, *fields]))
    return place
