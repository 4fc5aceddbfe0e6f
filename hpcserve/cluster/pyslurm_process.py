"""One helper process: started, asked one thing at a time, and killed when it does not behave.

It decides nothing about when a helper is started anew; :mod:`hpcserve.cluster.slurm_pyslurm` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import tempfile
from typing import IO, TypeVar

import msgspec

from hpcserve.cluster.processes import exit_in_words
from hpcserve.cluster.pyslurm_messages import Answer, Failed, Ready, Request
from hpcserve.cluster.runner import KILLED_WITHIN_S, cleaned, in_english
from hpcserve.errors import SchedulerError

A = TypeVar("A", bound=Answer)

_MODULE = "hpcserve.cluster.pyslurm_helper"
_MAX_ANSWER_BYTES = 64 * 2**20
_LAST_WORDS_BYTES = 2048
_MAX_NOISE_BYTES = 64 * 2**10
_LAST_LINES = 3


class Broken(Exception):
    """The helper gave no answer that can be used, and is gone.

    Args:
        message: How it went.
        hung: It gave none at all in time.
    """

    def __init__(self, message: str, *, hung: bool) -> None:
        super().__init__(message)
        self.hung = hung


class HelperProcess:
    """A helper that runs and is ready. Made by :meth:`start`."""

    def __init__(self, process: asyncio.subprocess.Process, noise: IO[bytes], *, timeout_s: float) -> None:
        self._process = process
        self._noise = noise
        self._timeout_s = timeout_s

    @classmethod
    async def start(cls, *, timeout_s: float) -> HelperProcess:
        """Starts a helper and waits until pyslurm is loaded.

        Raises:
            SchedulerError: pyslurm cannot be used; the message is the reason.
        """
        try:
            noise = _noise_file()
            helper = cls(await _spawn(noise), noise, timeout_s=timeout_s)
        except OSError as error:
            raise SchedulerError(f"cannot start a process for pyslurm: {error}") from error
        try:
            first = await helper._answer(Ready)
        except Broken as broken:
            raise SchedulerError(f"pyslurm cannot be used: {broken}") from broken
        except asyncio.CancelledError:
            await helper.end()
            raise
        if isinstance(first, Ready):
            return helper
        await helper.end()
        raise SchedulerError(first.message)

    async def ask(self, request: Request, expected: type[A]) -> A | Failed:
        """Asks one thing; nobody else may ask meanwhile. A caller that is cancelled takes the helper with it.

        Raises:
            Broken: It did not answer, and is gone.
        """
        assert self._process.stdin is not None
        before = os.fstat(self._noise.fileno()).st_size
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        answer = await self._answer(expected)
        said = self._last_words(since=before)
        if os.fstat(self._noise.fileno()).st_size > _MAX_NOISE_BYTES:
            os.ftruncate(self._noise.fileno(), 0)
        if isinstance(answer, Failed) and said:
            # Slurm's C code tells more than the error: which file, which host, which socket.
            return msgspec.structs.replace(answer, message=f"{answer.message}: {said}")
        return answer

    async def end(self) -> None:
        """Ends the process, which need not be asked to: it keeps nothing."""
        self._kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(KILLED_WITHIN_S):
                await self._process.stdout.read()
                await self._process.wait()
        self._noise.close()

    async def _answer(self, expected: type[A]) -> A | Failed:
        assert self._process.stdout is not None
        hung = False
        try:
            async with asyncio.timeout(self._timeout_s):
                line = await self._process.stdout.readline()
                if not line.endswith(b"\n"):
                    await self._process.wait()
            if line.endswith(b"\n"):
                answer: A | Failed = msgspec.json.decode(line, type=expected | Failed)
                return answer
            how = f"its process ended with {exit_in_words(self._process.returncode or 0)}"
        except TimeoutError:
            how, hung = f"it did not answer within {self._timeout_s:g} s", True
        except (ValueError, msgspec.MsgspecError) as error:
            how = f"it gave an answer that is none ({error})"
        except asyncio.CancelledError:
            # Its answer would be taken for that to the next request.
            self._kill()
            raise
        said = self._last_words()
        await self.end()
        raise Broken(f"{how}: {said}" if said else how, hung=hung)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _last_words(self, *, since: int = 0) -> str:
        """The last lines that were written to standard error, on one line."""
        size = os.fstat(self._noise.fileno()).st_size
        start = max(since, size - _LAST_WORDS_BYTES)
        text = os.pread(self._noise.fileno(), max(0, size - start), start).decode(errors="replace")
        return " / ".join(line.strip() for line in text.splitlines()[-_LAST_LINES:])


async def _spawn(noise: IO[bytes]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            _MODULE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=noise,
            limit=_MAX_ANSWER_BYTES,
            env=in_english(cleaned(os.environ)),  # pyslurm gives all of our SLURM_* to each job
            start_new_session=True,  # what a terminal sends to the daemon is not for the helper
        )
    except BaseException:
        noise.close()
        raise


def _noise_file() -> IO[bytes]:
    """For standard error: unlike a pipe it is never full, and nobody has to read it all the time."""
    noise = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it stays open as long as the helper)
    descriptor = noise.fileno()
    # So that the next line stands at the beginning once the file was cut.
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    return noise
