"""Runs ``apptainer build`` to its end, or ends it, and tells what it says.

All that it has started ends with it: apptainer, what it runs inside the image and what that leaves running,
mksquashfs. What it keeps on its way lies in a directory of ours, since it leaves that behind when it is killed.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hpcserve.cluster.build_places import not_written, part_of, scratch
from hpcserve.cluster.capabilities import without_missing
from hpcserve.cluster.left_behind import ended_with
from hpcserve.cluster.processes import signal_group
from hpcserve.errors import ManifestError, StorageFull

SHOWN_LINES = 12
SHOWN_CHARACTERS = 400
_END_S = 10.0
_LOOK_S = 0.05
_PIPE_BYTES = 1 << 20  # the most that a pipe holds. Source: pipe(7)
# The fastest to make and to load of what mksquashfs(1) knows.
_COMPRESSION = ("--mksquashfs-args", "-comp zstd -Xcompression-level 3")
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")


def build(
    command: str,
    image: Path,
    definition_file: Path,
    options: Sequence[str],
    *,
    environment: Mapping[str, str],
    tell: Callable[[str], None],
) -> None:
    """Makes an image, under another name until it is whole, and tells each step that Apptainer tells.

    Args:
        command: Apptainer's.
        image: Its path.
        definition_file: What it is to be.
        options: Of ``apptainer build``.
        environment: Of Apptainer.
        tell: Called with each step.

    Raises:
        ManifestError: A command in it failed.
        StorageFull: There was no room, for the image or on the way to it.
        ConfigError: It cannot be written.
    """
    kept = environment.get("APPTAINER_TMPDIR") or environment.get("TMPDIR") or tempfile.gettempdir()
    try:
        image.parent.mkdir(parents=True, exist_ok=True)
        with scratch(Path(kept)) as temporary, part_of(image) as part:
            argv = [command, "build", "--force", *_COMPRESSION, *options, str(part), str(definition_file)]
            variables = without_missing({**environment, "APPTAINER_TMPDIR": str(temporary)})
            last = _followed(argv, variables, tell)
            if last:
                raise _failed(image, last, temporary)
            part.replace(image)
    except OSError as error:
        raise not_written(str(image), error) from error


def _failed(image: Path, last: Sequence[str], temporary: Path) -> ManifestError | StorageFull:
    full = next((line for line in last if _FULL.search(line)), None)
    if full is not None:
        return StorageFull(
            f"image {image} was not built: no room where it is written, or in {temporary.parent}, where it is put "
            f"together ({full[-SHOWN_CHARACTERS:]}); make room, or set APPTAINER_TMPDIR to a directory with more"
        )
    return ManifestError(f"image {image} was not built: {last[-1]}", remote_traceback="\n".join(last))


def _followed(argv: Sequence[str], environment: Mapping[str, str], tell: Callable[[str], None]) -> list[str]:
    """Runs a command to its end; where it fails, the last lines that it printed. All of it ends with this call."""
    last: list[str] = []
    with (
        ended_with(),
        subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            for line in _lines(process):
                said = line.decode(errors="replace").strip()
                if said.startswith("INFO:"):
                    tell(said.removeprefix("INFO:").strip())
                elif said and not said.startswith("+ "):  # of sh -x: a command of ours, however long
                    last = [*last, said[:SHOWN_CHARACTERS]][-SHOWN_LINES:]
        finally:
            if not _ended(process.pid, 0.0):
                signal_group(process.pid, signal.SIGTERM)
                _ended(process.pid, _END_S)
            signal_group(process.pid, signal.SIGKILL)
    return (last or ["it said nothing"]) if process.returncode else []


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a process prints, until it has ended: others may hold its output for ever."""
    assert process.stdout is not None
    output, kept, over = process.stdout.fileno(), b"", False
    while not over:
        over = _ended(process.pid, 0.0)  # before the look: all that it printed is there then
        if select.select([output], [], [], 0.0 if over else _LOOK_S)[0]:
            said = os.read(output, _PIPE_BYTES)
            if not said:
                over = _ended(process.pid, None)
            *whole, kept = (kept + said).split(b"\n")
            yield from whole
    yield kept


def _ended(pid: int, within_s: float | None) -> bool:
    """Whether a child has ended, or does so within that time. Its pid stays its own, and so does its group's."""
    if within_s is None:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is not None
    until_s = time.monotonic() + within_s
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() >= until_s:
            return False
        time.sleep(_LOOK_S)
    return True
