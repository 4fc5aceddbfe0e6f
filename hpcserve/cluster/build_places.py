"""Where images are being built: what is there names who made it, and each image has one builder at a time.

What a build makes on its way it removes at its end. One that was killed leaves it; whoever builds next on the same host
removes that, by the process in its name. Another host's is left alone: nobody here knows whether it is at work.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcserve.cluster.processes import pid_namespace, start_time
from hpcserve.errors import ConfigError, StorageFull

_PREFIX = "hpcserve-build-"


def not_written(what: str, error: OSError) -> ConfigError | StorageFull:
    """What to raise where a file cannot be written.

    Args:
        what: The file, or what it was for.
        error: Why not.
    """
    if error.errno in StorageFull.errnos:
        return StorageFull(f"cannot write {what}: {error.strerror}; make room on that disk or in your quota")
    return ConfigError(f"cannot write {what}: {error}")


@contextmanager
def scratch(below: Path) -> Iterator[Path]:
    """A directory without a space in its path, removed afterwards; those of the dead are removed first.

    Raises:
        ConfigError: It cannot be made.
        StorageFull: There is no room for it.
    """
    try:
        below.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.gettempdir()) if " " in str(below) else below
        for each in place.glob(f"{_PREFIX}*"):
            if _is_left_over(each.name.removeprefix(_PREFIX)):
                shutil.rmtree(each, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{_own_mark()}-", dir=place))
    except OSError as error:
        raise not_written(str(below), error) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def part_of(image: Path) -> Iterator[Path]:
    """The name under which an image is built, removed afterwards; those of the dead are removed first."""
    head = f".{image.stem}."
    for each in image.parent.glob("*.sif"):
        mark = each.name.removeprefix(head).removesuffix(".sif")
        if each.name.startswith(head) and _is_left_over(mark):
            each.unlink(missing_ok=True)
    part = image.with_name(f"{head}{_own_mark()}.sif")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def alone(cache: Path, path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Nobody else with this cache makes the same file or directory meanwhile; waits for who does, and says so.

    Raises:
        ConfigError: The cache cannot be written to.
        StorageFull: It has no room.
    """
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    try:
        (cache / "locks").mkdir(parents=True, exist_ok=True)
        lock = (cache / "locks" / name).open("w")
    except OSError as error:
        raise not_written(str(cache), error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another process that makes {path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _own_mark() -> str:
    return f"{_here()}-{os.getpid()}-{start_time(os.getpid())}"


def _is_left_over(mark: str) -> bool:
    """Whether a process of this host made it that does not live any more."""
    here, pid, started = (*mark.split("-"), "", "")[:3]
    return here == _here() and pid.isdigit() and start_time(int(pid)) != started


def _here() -> str:
    """Names the processes among which a pid is one."""
    return hashlib.sha256(f"{socket.gethostname()}\n{pid_namespace()}".encode()).hexdigest()[:8]
