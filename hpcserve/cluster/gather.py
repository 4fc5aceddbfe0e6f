"""Gathers, by pip, the packages that images may lack. Which, and where to: :mod:`hpcserve.cluster.packages`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hpcserve.cluster.packages import gathering, requirements, runtime_dir
from hpcserve.errors import ConfigError

TIMEOUT_S = 900.0
SHOWN_CHARACTERS = 400


def gather(
    shared_dir: Path, python: Sequence[int], machine: str, libc: str, *, compiled: Callable[[Path], None]
) -> tuple[Path, bool]:
    """Gathers the packages for a Python and a C library, unless they are there. They appear whole or not at all.

    Args:
        shared_dir: The site's.
        python: The version of the image's Python.
        machine: As uname(1) calls it.
        libc: The version of the image's C library.
        compiled: Has that Python compile all modules in a directory: nobody else can, and each start would.

    Returns:
        Their directory, and whether it is new.

    Raises:
        ConfigError: They cannot be had from here, or not be written there.
    """
    target = runtime_dir(shared_dir, python, machine, libc)
    return target, gather_into(target, requirements(), python, machine, libc, compiled=compiled)


def gather_into(
    target: Path,
    wanted: Sequence[str],
    python: Sequence[int],
    machine: str,
    libc: str,
    *,
    compiled: Callable[[Path], None],
) -> bool:
    """Gathers packages into a directory; False where it is there already.

    Raises:
        ConfigError: They cannot be had from here, or not be written there.
    """
    if target.is_dir():
        return False
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    except OSError as error:
        raise ConfigError(f"cannot write to {target.parent}: {error}") from error
    try:
        run_pip(gathering(scratch / "packages", wanted, python, machine, libc))
        compiled(scratch / "packages")
        if not target.is_dir():  # somebody else may have been quicker
            (scratch / "packages").rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def run_pip(arguments: Sequence[str]) -> None:
    """Runs this interpreter's own pip.

    Raises:
        ConfigError: It fails; the message has what it said last.
    """
    argv = [sys.executable, "-m", "pip", *arguments]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"pip was not done within {TIMEOUT_S:g} s; is there a network here?") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[-SHOWN_CHARACTERS:]
        raise ConfigError(
            f"the packages cannot be had; they need a network, and wheels for this Python; pip says: {said}"
        )
