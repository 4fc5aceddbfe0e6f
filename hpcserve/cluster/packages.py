"""The packages that hpcserve needs of an image's Python, for images that lack them. Pure.

Which they are, where they are kept, and the command that gathers them.
They are kept below the shared directory by Python, machine, C library and requirements, so that all images of one kind
share them and a later hpcserve gathers its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from hpcserve.errors import ConfigError

RUNTIMES = "runtimes"
"""The directory with all of them, below the shared one."""
LEAST_PYTHON = (3, 10)
OF_MODULES = {"zmq": "pyzmq", "msgspec": "msgspec", "numpy": "numpy"}
"""What a replica cannot do without: modules, and the packages that have them."""
OF_RANKS = {"mpi4py": "mpi4py"}
"""What a replica of several ranks cannot do without either."""
# What it can do without, and is gathered with the rest: h5py writes large results.
_OPTIONAL = ("h5py", "ml_dtypes")
_TELLS_OF_GPUS = "gpu"  # an extra of hpcserve: NVIDIA's binding, which needs no GPU to be there
# The versions of the GNU C library for which packages are made, newest first. Source: PEP 600.
_LIBCS = ((2, 34), (2, 28), (2, 27), (2, 26), (2, 17))


def needed(*, ranks: bool) -> dict[str, str]:
    """The modules that a replica cannot do without, and the packages that have them.

    Args:
        ranks: Whether it is of several ranks.
    """
    return OF_MODULES | OF_RANKS if ranks else OF_MODULES


@cache
def requirements(*, ranks: bool = False) -> tuple[str, ...]:
    """What hpcserve's own installation requires of these packages, such as ``numpy<3,>=2.0``."""
    if ranks:
        return (*requirements(), *extra("mpi"))
    wanted = (*OF_MODULES.values(), *_OPTIONAL)
    stated = [each for each in metadata.requires("hpcserve") or () if "extra ==" not in each]
    found = (each for each in stated if re.split(r"[^\w-]", each)[0].replace("-", "_") in wanted)
    return tuple(sorted((*found, *extra(_TELLS_OF_GPUS))))


@cache
def extra(name: str) -> tuple[str, ...]:
    """What hpcserve requires where one of its extras is installed, such as ``torch<3,>=2.6``."""
    stated = (each.partition(";") for each in metadata.requires("hpcserve") or ())
    return tuple(wanted.strip() for wanted, _, marker in stated if f'extra == "{name}"' in marker)


@cache
def least_versions() -> dict[str, tuple[str, str]]:
    """For each module the package that has it and its lowest version."""
    found = {}
    for module, package in needed(ranks=True).items():
        stated = next(each for each in requirements(ranks=True) if each.startswith(package))
        lowest = re.search(r">=([\d.]+)", stated)
        found[module] = (package, lowest[1] if lowest else "0")
    return found


def usable_libcs(libc: str) -> tuple[tuple[int, int], ...]:
    """Packages for which versions of the C library can be used with this one, newest first.

    Args:
        libc: The version of the GNU C library, such as ``2.36``; empty where there is another, such as musl.

    Raises:
        ConfigError: There are none.
    """
    have = tuple(int(number) for number in libc.split(".")[:2]) if libc else ()
    usable = tuple(version for version in _LIBCS if version <= have)
    if not usable:
        oldest = ".".join(map(str, _LIBCS[-1]))
        found = f"is glibc {libc}" if libc else "is none of GNU's (Alpine has musl)"
        raise ConfigError(
            f"no packages can be gathered for it: its C library {found}, and they are made for glibc {oldest} or "
            f"later; make the image of another distribution, such as Debian, or with {', '.join(OF_MODULES.values())} "
            "of its own"
        )
    return usable


def runtime_dir(shared_dir: Path, python: Sequence[int], machine: str, libc: str, *, ranks: bool = False) -> Path:
    """Where the packages are for a Python's version on a machine with this C library, with mpi4py for several ranks.

    Raises:
        ConfigError: There can be none: see :func:`usable_libcs`.
    """
    major, minor = usable_libcs(libc)[0]
    key = hashlib.sha256("\n".join(requirements(ranks=ranks)).encode()).hexdigest()[:8]
    name = f"python{python[0]}.{python[1]}-{machine}-glibc{major}.{minor}{'-ranks' if ranks else ''}-{key}"
    return shared_dir / RUNTIMES / name


def gathering(target: Path, wanted: Sequence[str], python: Sequence[int], machine: str, libc: str) -> tuple[str, ...]:
    """The arguments of pip that gather packages.

    Args:
        target: A directory, into which they are unpacked.
        wanted: The packages, as pip understands them.
        python: The version of the image's Python.
        machine: As uname(1) calls it.
        libc: The version of the image's C library.

    Raises:
        ConfigError: There are none for it.
    """
    return ("install", "--no-compile", *_wheels(python, machine, libc), "--target", str(target), *wanted)


def downloading(target: Path, wanted: str, python: Sequence[int], machine: str, libc: str) -> tuple[str, ...]:
    """The arguments of pip that put one package's wheel into a directory; otherwise as :func:`gathering`."""
    return ("download", "--no-deps", *_wheels(python, machine, libc), "--dest", str(target), wanted)


def _wheels(python: Sequence[int], machine: str, libc: str) -> tuple[str, ...]:
    """The options of pip that have it choose wheels for another Python."""
    platforms = [f"manylinux_{major}_{minor}_{machine}" for major, minor in usable_libcs(libc)]
    platforms.append(f"manylinux2014_{machine}")  # pip knows what else manylinux_2_17 was called
    options = ["--quiet", "--only-binary=:all:", "--implementation=cp", f"--python-version={python[0]}.{python[1]}"]
    return (*options, *(f"--platform={each}" for each in platforms))
