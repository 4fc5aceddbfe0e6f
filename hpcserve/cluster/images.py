"""Looks at an Apptainer image before anything is served from it: is it whole, signed, and fit to run a replica?

Runs the image, on this very host; waits for each answer. What a program in it sees is :mod:`hpcserve.cluster.guest`'s
to say, and how it is run :mod:`hpcserve.cluster.containers`'s.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from hpcserve import bootstrap
from hpcserve.cluster.containers import NOT_SIGNED, RUNTIMES, Bind, Inside, contained, site_binds
from hpcserve.cluster.guest import guest
from hpcserve.cluster.image_check import PROBE, Libraries
from hpcserve.cluster.packages import LEAST_PYTHON, least_versions, needed
from hpcserve.errors import ConfigError, ManifestError
from hpcserve.wire.launch import ContainerRules, MpiRules

T = TypeVar("T")
COMPILE_S = 3600.0
"""So long all modules of a large framework may take, on a slow file system."""

REPORTS = "hpcserve.replica.reports"
BLOCK_BYTES = 1 << 20
SHOWN_CHARACTERS = 400

# For any Python that an image may have.
_PROBE = """
import json, platform, sys, sysconfig
found = {"purelib": sysconfig.get_path("purelib"),
    "python": list(sys.version_info[:3]), "machine": platform.machine()}
name, version = platform.libc_ver()
found["libc"] = version if name == "glibc" else ""
found["packages"] = {}
for name in sys.argv[1:]:
    try:
        found["packages"][name] = __import__(name).__version__
    except ImportError:
        pass
print(json.dumps(found))
"""

_NO_KEY = "Failed to load key material"
# What Apptainer 1.4 says, and what it means. None has a code of its own; 135 is SIGBUS, of a page that cannot be read.
_SAYS = (
    (r"executable file not found", "has no {python}; name its interpreter by environment.python"),
    (r"image format not recognized", "is no Apptainer image"),
    (
        r"bad superblock|corrupted|unexpected EOF|invalid superblock|truncated|input/output error|^exit code 135$",
        "is damaged or not whole; remove it (rm {image}) and make it again",
    ),
    (r"architecture", "is for machines of another architecture; make it on one like the compute nodes"),
)
# Why Apptainer 1.4 does not verify an image that is signed, or not whole; signing it (again) would not help.
_UNSIGNED = (
    (
        r"integrity compromised",
        "was changed after it was signed, or is damaged; never sign it: remove it (rm {image}); get or build it anew",
    ),
    (r"integrity: (unexpected )?EOF", "is damaged or not whole; remove it (rm {image}), and get or build it anew"),
    (
        r"signatures do not match",
        (
            "is not signed by the site's key, {key}, but by another one, and all its signatures have to be by that "
            "key: remove it (rm {image}), build it again, and have that copy, which nobody has signed, signed by: "
            "apptainer sign --key PRIVATE_KEY {image}"
        ),
    ),
)


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """What the Python in an image says of itself.

    ``libc``: the version of the GNU C library; empty where there is another. ``purelib``: where it looks for packages.
    ``packages``: the versions of those that it has.
    """

    python: tuple[int, ...]
    machine: str
    libc: str
    purelib: str
    packages: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A file as it was found: if size and time are as they were, it is the same."""

    sha256: str
    size_bytes: int
    mtime_ns: int


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """What hpcserve's code says of itself in an image: :mod:`hpcserve.replica.reports`.

    ``packages``: the versions of the modules that were imported.
    """

    software: str
    wire: tuple[int, ...]
    packages: dict[str, str]


class Images:
    """Looks at images.

    Args:
        rules: How the site runs containers.
        inherited: The environment of this process.
        timeout_s: What takes longer is given up.
    """

    def __init__(self, rules: ContainerRules, inherited: Mapping[str, str], *, timeout_s: float) -> None:
        self._rules = rules
        self._inherited = inherited
        self._timeout_s = timeout_s

    def file(self, image: str) -> ImageFile:
        """What identifies an image.

        Raises:
            ManifestError: It cannot be read, or changes meanwhile.
        """
        digest = hashlib.sha256()
        try:
            with open(image, "rb", buffering=0) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise ManifestError(f"image {image} is not a file; give the path of a .sif file")
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
                after = Path(image).stat()
        except OSError as error:
            raise ManifestError(
                f"image {image}: {error.strerror}; it must lie where this host and the compute nodes see it"
            ) from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ManifestError(f"image {image} changed while it was read; publish again when nothing writes to it")
        return ImageFile(sha256=digest.hexdigest(), size_bytes=after.st_size, mtime_ns=after.st_mtime_ns)

    def python(self, image: str, python: str, *, ranks: bool = False) -> Interpreter:
        """What the image's interpreter says of itself; the image is signed then, if it has to be.

        Args:
            image: The path of the image.
            python: What the interpreter is called there.
            ranks: Whether replicas of several ranks are to run there.

        Raises:
            ConfigError: The site's own part is wrong: its runtime, its key, what it binds.
            ManifestError: The image does not run, has no such interpreter, or one that cannot run a replica.
        """
        found = self._ask(Inside(image=image, argv=(python, "-c", _PROBE, *least_versions())), Interpreter)
        check_versions(image, found, ranks=ranks)
        return found

    def libraries(self, image: str, python: str, mpi: MpiRules | None = None) -> Libraries:
        """What the image has for MPI and GPUs; with ``mpi`` also what the site shows ranks in it.

        Raises:
            HpcserveError: As :meth:`python`.
        """
        return self._ask(Inside(image=image, argv=(python, "-c", PROBE)), Libraries, mpi)

    def runtime(self, image: str, python: str, packages: str, mpi: MpiRules | None = None) -> Runtime:
        """What hpcserve's own code says of itself, once all that a replica needs was imported in the image.

        Args:
            image: The path of the image.
            python: What the interpreter is called there.
            packages: The directory with what it lacks, or empty.
            mpi: How the site starts ranks, if replicas of several are to run there.

        Raises:
            HpcserveError: As :meth:`python`; or something cannot be imported.
        """
        modules = tuple(needed(ranks=mpi is not None))
        inside = guest(REPORTS, *modules, image=image, python=python, packages=packages, environment={})
        return self._ask(inside, Runtime, mpi)

    def compile(self, image: str, python: str, directory: Path) -> None:
        """Has the image's Python compile all modules below a directory.

        Their compiled form is taken as it is, whatever the times of files become in another image.

        Raises:
            HpcserveError: As :meth:`python`.
        """
        inside = bootstrap.PACKAGES
        argv = (python, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", inside)
        binds = (Bind(str(directory), inside, writable=True),)
        # What does not compile is no module for this Python; whoever needs it is told then.
        self._run(Inside(image=image, argv=argv, binds=binds), timeout_s=COMPILE_S)

    def _ask(self, inside: Inside, kind: type[T], mpi: MpiRules | None = None) -> T:
        """The answer of a program in the image: one line of JSON."""
        self._check_site(mpi)
        image = inside.image
        code, answer, said = self._run(inside, mpi=mpi)
        if code == NOT_SIGNED and self._rules.signature_key:
            raise self._unsigned(image, said)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            if code == bootstrap.UNFIT and bootstrap.SAYS in said:
                raise ManifestError(f"image {image}: {said.partition(bootstrap.SAYS)[2]}") from error
            said = said or f"exit code {code}"
            meaning = _meaning(said, python=inside.argv[0], image=image)
            raise ManifestError(f"image {image} {meaning}: {said}") from error

    def _unsigned(self, image: str, said: str) -> ConfigError | ManifestError:
        key = self._rules.signature_key
        why = said.partition(f"image {image}: ")[0].strip()
        if _NO_KEY in why:
            return ConfigError(
                f"containers.signature_key: {key} is no public key that Apptainer reads ({why}); correct the site file"
            )
        for pattern, meaning in _UNSIGNED:
            if re.search(pattern, why):
                return ManifestError(f"image {image} {meaning.format(image=image, key=key)} ({why})")
        return ManifestError(
            f"image {image} is not signed by the site's key, {key} ({why}); whoever has the private key signs it by: "
            f"apptainer sign --key PRIVATE_KEY {image}"
        )

    def _check_site(self, mpi: MpiRules | None) -> None:
        command = self._rules.command or self._rules.runtime
        if self._rules.runtime not in RUNTIMES:
            raise ConfigError(
                f"containers.runtime: {self._rules.runtime!r} runs no servables; the site needs 'apptainer' for those "
                "with an image"
            )
        if shutil.which(command) is None:
            setting = "command" if self._rules.command else "runtime"
            raise ConfigError(
                f"containers.{setting}: no command {command!r} here; load its module, or correct the site"
            )
        key = self._rules.signature_key
        if key and not os.access(key, os.R_OK):
            raise ConfigError(f"containers.signature_key: cannot read {key}; correct the site file")
        for section, rules in (("containers", self._rules), ("mpi", mpi)):
            for bind in site_binds(rules) if rules is not None else ():
                if not Path(bind.source).exists():
                    raise ConfigError(f"{section}.binds: there is no {bind.source} on this host; correct the site file")

    def _run(
        self, inside: Inside, timeout_s: float | None = None, mpi: MpiRules | None = None
    ) -> tuple[int, bytes, str]:
        """Exit code, standard output, and the end of standard error in one line."""
        made = contained(self._rules, inside, self._inherited, mpi)
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            done = subprocess.run(
                made.argv,
                env=made.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit_s,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ManifestError(
                f"image {inside.image}: its Python did not answer within {limit_s:g} s; try: "
                f"{self._rules.command or self._rules.runtime} exec {inside.image} {inside.argv[0]} --version"
            ) from error
        said = " ".join(done.stderr.decode(errors="replace").replace("FATAL:", "").split())
        return done.returncode, done.stdout, said[-SHOWN_CHARACTERS:]


def _meaning(said: str, *, python: str, image: str) -> str:
    for pattern, meaning in _SAYS:
        if re.search(pattern, said):
            return meaning.format(python=python, image=image)
    return "does not run"


def check_versions(image: str, found: Interpreter, *, ranks: bool = False) -> None:
    """Whether an image's Python and packages can run a replica of ours, be it of several ranks.

    Raises:
        ManifestError: They cannot; the message names both sides.
    """
    version = ".".join(map(str, found.python))
    if found.python < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        raise ManifestError(f"image {image}: its Python is {version}, and hpcserve needs {least} or later in an image")
    for module in needed(ranks=ranks):
        package, least_version = least_versions()[module]
        has = found.packages.get(module)
        if has is not None and _numbers(has) < _numbers(least_version):
            raise ManifestError(
                f"image {image}: its {package} is {has}, and hpcserve here needs {least_version} or later; "
                f"make the image with a later one, or without {package}: then it gets hpcserve's"
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
