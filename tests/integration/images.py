"""Apptainer images for tests, made within seconds and without a network from this machine's own files."""

from __future__ import annotations

import compileall
import fcntl
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from hpcserve import config
from hpcserve.cluster.building import Builder
from hpcserve.cluster.capabilities import without_missing
from hpcserve.cluster.definition import definition
from hpcserve.cluster.gather import gather, gather_into, gather_prefix
from hpcserve.cluster.images import Images
from hpcserve.cluster.layers import MPICH
from hpcserve.cluster.packages import extra
from hpcserve.config import Containers
from hpcserve.daemon.images import rules_of
from tests.facility.box.machine import must_hold_one

COMMANDS = ("sh", "env", "sleep", "cat", "ls", "dd", "uname")
"""What an image has besides Python."""
DIRECTORIES = ("tmp", "proc", "sys", "dev", "etc", "root", "var/tmp", "home")
"""What a container needs of an image beside programs."""
THIS = (sys.version_info[:2], platform.machine(), platform.libc_ver()[1])
"""The Python of our images, their machine and their C library."""
ZSTD = ("--mksquashfs-args", "-comp zstd -Xcompression-level 3")
_LEFT_OUT = ("test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "config-*", "*.a")


def need_apptainer() -> None:
    """Skips where there is no Apptainer; where there must be one, that is an error."""
    if shutil.which("apptainer") is not None:
        return
    if must_hold_one():
        pytest.fail("no Apptainer for the tests of containers; tests/system-packages installs it and says what failed")
    pytest.skip("no Apptainer on this machine; on Debian, as root: tests/system-packages")


def build(image: Path, source: Path) -> Path:
    """Makes an image of all that is below a directory, or of a definition file."""
    argv = ["apptainer", "--quiet", "build", "--force", *ZSTD, str(image), str(source)]
    done = subprocess.run(argv, env=builder_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return image


def builder_environment() -> dict[str, str]:
    """For ``apptainer build``, called here and not by hpcserve."""
    return without_missing(os.environ)


def signed(image: Path, copy: Path, key: Path) -> Path:
    """A copy of the image, signed by a private key."""
    shutil.copy(image, copy)
    subprocess.run(["apptainer", "--silent", "sign", "--key", str(key), str(copy)], check=True)
    return copy


def flip(image: Path, at_byte: int) -> None:
    """Changes a few bytes of a file."""
    with image.open("r+b") as file:
        file.seek(at_byte)
        found = file.read(64)
        file.seek(at_byte)
        file.write(bytes(each ^ 0xFF for each in found))


def tree(root: Path, *, python: bool = True) -> Path:
    """A directory with what an image needs: a shell, a few commands, and, if wanted, this Python without packages."""
    programs = []
    for command in COMMANDS:
        found = shutil.which(command)
        assert found is not None, f"no {command} on this machine"
        programs.append(found)
        _copy(root, Path(found), at=Path("/bin") / command)
    if python:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        interpreter = Path(sys.executable).resolve()
        _copy(root, interpreter, at=Path("/usr/bin") / version)
        (root / "usr/bin/python3").symlink_to(version)
        library = Path(sysconfig.get_path("stdlib"))
        shutil.copytree(
            library,
            root / "usr/lib" / version,
            ignore=shutil.ignore_patterns(*_LEFT_OUT),
            symlinks=False,
            ignore_dangling_symlinks=True,
        )
        programs += [str(interpreter), *map(str, (library / "lib-dynload").glob("*.so"))]
    for needed in _libraries(programs):
        _copy(root, needed)
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    users(root)
    return root


def users(root: Path) -> None:
    """Makes root known in an image's directory."""
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")


def cached(name: str, cache: Path, *, python: bool = True) -> Path:
    """The image of :func:`tree` in ``cache``, made by whichever test comes first."""
    cache.mkdir(parents=True, exist_ok=True)
    image = cache / f"{name}.sif"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            built = build(cache / f"{name}.new.sif", tree(cache / f"{name}.tree", python=python))
            shutil.rmtree(cache / f"{name}.tree")
            built.rename(image)
    return image


def _libraries(programs: Iterable[str]) -> set[Path]:
    """The shared libraries that programs need, by ldd(1), and their loader."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(?m)(/\S+) \(0x", said)}
    libc = next(path for path in found if path.name == "libc.so.6")
    # Of the machine's libraries, packages from elsewhere may rely on these. Source: PEP 513.
    also = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libm.so.6", "libutil.so.1")
    beside = [libc.with_name(name) for name in also]
    other = re.findall(r"lib(?:stdc\+\+|gcc_s)\.so\.\d+ \([^)]*64\) => (/\S+)", _ldconfig())
    return found | {path for path in beside if path.exists()} | set(map(Path, other))


def _ldconfig() -> str:
    return subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout


def _copy(root: Path, file: Path, at: Path | None = None) -> None:
    target = root / (at or file).relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(file, target)


def _compiled(directory: Path) -> None:
    compileall.compile_dir(directory, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def mpi(python_image: Path, cache: Path) -> Path:
    """The image with this machine's Python, and MPICH and mpi4py over it, made by whichever test comes first."""
    image = cache / "mpi.sif"
    with (cache / "mpi.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            gather_prefix(cache / "mpich", MPICH, *THIS)
            gather_into(cache / "mpi4py", extra("mpi"), *THIS, compiled=_compiled)
            copies = [(f"{cache}/mpi4py/*", f"{purelib(python_image)}/"), (f"{cache}/mpich/*", "/usr/")]
            layered(cache / "mpi.new.sif", python_image, copies).rename(image)
    return image


def standard(*layers: str) -> Path:
    """The image that servables stand on where they name these layers; in the user's cache, made by who comes first."""
    site = Containers(runtime="apptainer")
    looking = Images(rules_of(site), os.environ, timeout_s=120.0)
    cache = config.cache_dir()
    builder = Builder(looking, command="apptainer", cache=cache, environment=os.environ, tell=print)
    (cache / "tests").mkdir(parents=True, exist_ok=True)
    with (cache / "tests" / "standard.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return builder.standard("", layers)


def layered(image: Path, base: Path, copies: Sequence[tuple[str, str]]) -> Path:
    """Makes an image of another one and files: what is copied, and where to."""
    text = image.with_suffix(".def")
    text.write_text(definition(str(base), key="test", copies=copies, post=()))
    return build(image, text)


def purelib(image: Path) -> str:
    """Where the Python of one of our images looks for packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    argv = ["apptainer", "--silent", "exec", "--containall", "--no-home", str(image), "python3", "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def packages(shared_dir: Path, cache: Path, *, ranks: bool = False) -> None:
    """Gives a daemon's shared directory the packages that our images lack, gathered once in a run of the tests."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place, _ = gather(cache, *THIS, compiled=_compiled, ranks=ranks)
    target = shared_dir / place.relative_to(cache)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.symlink_to(place)
