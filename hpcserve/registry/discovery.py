"""Asks a servable's own interpreter which methods it has: runs :mod:`hpcserve.servable.inspect`.

The servable's code runs in a process group of its own, with a time limit; whatever it prints, starts or
breaks stays there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Thread
from typing import IO, Protocol

import msgspec

from hpcserve.errors import Cancelled, ManifestError
from hpcserve.servable.environment import argv_for, python_of, unfit, variables_for
from hpcserve.servable.inspect import Inspected
from hpcserve.servable.manifest import Environment, Manifest, to_json

MAX_ANSWER_BYTES = 4 << 20
MAX_LOG_BYTES = 16 << 10
READ_BYTES = 1 << 16
JOIN_S = 1.0
LOOK_S = 0.2


class Containers(Protocol):
    """How the site runs containers."""

    def published(self, manifest: Manifest) -> Environment:
        """The servable's environment with what its image is now.

        Raises:
            ManifestError: The image cannot serve.
            ConfigError: The site runs no containers.
        """

    def command(
        self, manifest: Manifest, module: str, *arguments: str, servable: Path
    ) -> tuple[list[str], dict[str, str]]:
        """The command that runs a module of ours in the servable's image, and its environment."""

    @property
    def servable(self) -> str:
        """Where a servable's directory is seen in a container."""


def resolve_methods(
    manifest: Manifest,
    directory: Path,
    *,
    timeout_s: float,
    stop: Event | None = None,
    containers: Containers | None = None,
    prologue: Sequence[str] = (),
) -> Manifest:
    """The manifest with the methods that the servable's code declares.

    Args:
        manifest: As :func:`hpcserve.registry.manifest_file.read_manifest` gives it.
        directory: The servable's files.
        timeout_s: How long importing it may take.
        stop: When it is set, importing is given up.
        containers: For a servable with an image of its own.
        prologue: Shell lines of the site that run before the servable's own interpreter.

    Raises:
        Cancelled: ``stop`` was set.
        ManifestError: The environment is not fit, or the code fails, contradicts the manifest, ends its process or
            takes too long; ``remote_traceback`` is its traceback, or the last that it printed.
    """
    stop = stop or Event()
    environment, module = manifest.environment, "hpcserve.servable.inspect"
    if environment.kind == "container" and containers is not None:
        argv, variables = containers.command(manifest, module, containers.servable, servable=directory)
    else:
        argv = argv_for(environment, module, str(directory), prologue=prologue)
        variables = variables_for(environment, os.environ)
    exit_code, answer, log = _run(argv, variables, to_json(manifest).encode(), timeout_s, stop)
    if stop.is_set():
        raise Cancelled(f"servable {manifest.name!r}: the daemon goes down; publish it again when it is back")
    if exit_code is None:
        raise ManifestError(
            f"servable {manifest.name!r}: importing it took longer than {timeout_s:g} s; "
            "move slow work from the module into setup()",
            remote_traceback=log,
        )
    why = unfit(exit_code, log)
    if why:
        more = "".join(line for line in log.splitlines(keepends=True) if why not in line)
        raise ManifestError(f"servable {manifest.name!r}: {why}", remote_traceback=more or None)
    try:
        inspected = msgspec.json.decode(answer, type=Inspected)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"servable {manifest.name!r}: {python_of(environment)} ended with exit code {exit_code} before its methods "
            "were known; see what it said last, and do not end the process in the module",
            remote_traceback=log,
        ) from error
    if inspected.manifest is None:
        raise ManifestError(
            f"servable {manifest.name!r}: {inspected.message}", remote_traceback=inspected.traceback or None
        )
    return inspected.manifest


def _run(
    argv: list[str], variables: Mapping[str, str], stdin: bytes, timeout_s: float, stop: Event
) -> tuple[int | None, bytes, str]:
    """Exit code (None: the time was up), standard output and the end of standard error."""
    with TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            argv, env=variables, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    answer = _Tail(process.stdout, MAX_ANSWER_BYTES)
    log = _Tail(process.stderr, MAX_LOG_BYTES)
    try:
        exit_code = _exit_code(process, timeout_s, stop)
    finally:
        _end_group(process)
    return exit_code, answer.result(), log.result().decode(errors="replace")


def _exit_code(process: subprocess.Popen[bytes], timeout_s: float, stop: Event) -> int | None:
    until = time.monotonic() + timeout_s
    while not stop.is_set() and time.monotonic() < until:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK_S)
    return None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kills the process and everything that it has started in its group."""
    with suppress(ProcessLookupError):  # the group is empty: all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Tail:
    """Reads a pipe to its end on a thread, so that its writer never waits; keeps the last bytes."""

    def __init__(self, pipe: IO[bytes] | None, keep_bytes: int) -> None:
        self._kept = b""
        self._keep_bytes = keep_bytes
        self._thread = Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while block := os.read(pipe.fileno(), READ_BYTES):
                self._kept = (self._kept + block)[-self._keep_bytes :]

    def result(self) -> bytes:
        # A process that left the group may still hold the pipe: what came so far is the answer.
        self._thread.join(JOIN_S)
        return self._kept
