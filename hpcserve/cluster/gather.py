"""Gathers, by pip, the packages that images may lack. Which, and where to: :mod:`hpcserve.cluster.packages`."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

from hpcserve.cluster import directories
from hpcserve.cluster.packages import downloading, gathering, requirements, runtime_dir
from hpcserve.errors import ConfigError

TIMEOUT_S = 900.0
SHOWN_CHARACTERS = 400
# The package that is asked for, where it is certain: by its name, for whatever machine.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?=[^;@/]*$)")


def gather(
    shared_dir: Path,
    python: Sequence[int],
    machine: str,
    libc: str,
    *,
    compiled: Callable[[Path], None],
    ranks: bool = False,
) -> tuple[Path, bool]:
    """Gathers the packages for a Python and a C library, unless they are there. They appear whole or not at all.

    Where a file of them is gone, or has another size, all are gathered anew.

    Args:
        shared_dir: The site's.
        python: The version of the image's Python.
        machine: As uname(1) calls it.
        libc: The version of the image's C library.
        compiled: Has that Python compile all modules in a directory: nobody else can, and each start would.
        ranks: Whether replicas of several ranks are to run there: they need mpi4py too.

    Returns:
        Their directory, and whether it is new.

    Raises:
        ConfigError: They cannot be had from here, or not be written there.
    """
    target = runtime_dir(shared_dir, python, machine, libc, ranks=ranks)
    return target, gather_into(target, requirements(ranks=ranks), python, machine, libc, compiled=compiled)


def gather_into(
    target: Path,
    wanted: Sequence[str],
    python: Sequence[int],
    machine: str,
    libc: str,
    *,
    compiled: Callable[[Path], None],
) -> bool:
    """Gathers packages into a directory; False where they are there already, with all their files.

    Raises:
        ConfigError: They cannot be had from here, or not be written there.
    """
    if is_gathered(target, wanted):
        return False
    with _scratch(target.parent) as scratch:
        run_pip(gathering(scratch / "packages", wanted, python, machine, libc))
        compiled(scratch / "packages")
        if not is_gathered(target, wanted):  # somebody else may have been quicker
            with contextlib.suppress(FileNotFoundError):
                target.rename(scratch / "damaged")
            (scratch / "packages").rename(target)
    return True


def is_gathered(target: Path, wanted: Sequence[str]) -> bool:
    """Whether packages are in a directory with all files that they list, in the size that they had.

    Source: the specification of installed projects, ``RECORD``: path, digest and size; no size: made here.
    """
    lists = {_normal(each.parent.name.partition("-")[0]): each for each in target.glob("*.dist-info/RECORD")}
    named = {_normal(each[0]) for text in wanted if (each := _PLAIN.match(text))}
    return bool(lists) and named <= lists.keys() and all(_has_all(target, each) for each in lists.values())


def _normal(name: str) -> str:
    """Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _has_all(target: Path, record: Path) -> bool:
    return all(_is_there(target, path, size) for path, size in _listed(record))


def _listed(record: Path) -> Iterator[tuple[str, str]]:
    with record.open(newline="") as lines:
        for path, _, size in csv.reader(lines):
            yield path, size


def _is_there(target: Path, path: str, size: str) -> bool:
    if not size or path.startswith("../"):  # programs: pip puts them elsewhere than it says
        return True
    try:
        return (target / path).stat().st_size == int(size)
    except FileNotFoundError:
        return False


def gather_prefix(target: Path, wanted: str, python: Sequence[int], machine: str, libc: str) -> bool:
    """Gathers what a wheel puts beside Python's packages: programs and libraries, such as those of mpich.

    Args:
        target: It gets the wheel's ``bin``, ``lib`` and so on. False is answered where they are there already.
        wanted: The package, as pip understands it.
        python: The version of the image's Python.
        machine: As uname(1) calls it.
        libc: The version of the image's C library.

    Raises:
        ConfigError: It cannot be had from here, has nothing of the kind, or cannot be written there.
    """
    if _is_filled(target):
        return False
    with _scratch(target.parent) as scratch:
        run_pip(downloading(scratch, wanted, python, machine, libc))
        for wheel in scratch.glob("*.whl"):
            _unpack_data(wheel, scratch / "prefix")
        if not (scratch / "prefix").is_dir():
            raise ConfigError(
                f"the wheel of {wanted} has no programs and no libraries of its own; ask for another version"
            )
        if not _is_filled(target):
            (scratch / "prefix").rename(target)
    return True


def _is_filled(target: Path) -> bool:
    return target.is_dir() and any(target.iterdir())


def _unpack_data(wheel: Path, target: Path) -> None:
    """Source: the binary distribution format, of wheels 1.0: what is below ``NAME.data/data`` is for the prefix."""
    with ZipFile(wheel) as archive:
        for entry in archive.infolist():
            head, _, name = entry.filename.partition(".data/data/")
            if "/" in head or not name or entry.is_dir():
                continue
            entry.filename = name
            unpacked = Path(archive.extract(entry, target))
            unpacked.chmod(0o755 if entry.external_attr >> 16 & 0o111 else 0o644)


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A directory on the same file system, removed afterwards."""
    try:
        directories.make(beside)
        scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=beside))
    except OSError as error:
        raise ConfigError(f"cannot write to {beside}: {error}") from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
