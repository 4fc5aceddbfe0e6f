"""How a replica comes into the world: what its agent hands it, and how it notices that the agent is gone."""

from __future__ import annotations

import io
import os
import select
import sys

from hpcserve import __version__
from hpcserve.wire.launch import ReplicaSays, ReplicaStart, decode_start, encode_line


class Lifeline:
    """The agent's end of our standard input: readable means that the agent is gone.

    The servable gets an empty standard input instead, so that it cannot read the line or the lifeline.
    """

    def __init__(self) -> None:
        self.fd = os.dup(0)
        os.set_inheritable(self.fd, False)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)

    def read_start(self) -> ReplicaStart:
        """The one line that the agent writes.

        Raises:
            VersionMismatch: The agent is of another version than this replica.
            EOFError: The agent ended before it had written it, or since: what prepares an environment may take long.
        """
        line = bytearray()
        while not line.endswith(b"\n"):
            piece = os.read(self.fd, 1 << 16)
            if not piece:
                raise EOFError("the agent ended before it said what to run")
            line += piece
        if select.select([self.fd], [], [], 0)[0]:
            raise EOFError("the agent ended before this replica had begun")
        return decode_start(bytes(line), f"hpcserve {__version__}")

    def is_cut(self) -> bool:
        """Whether the agent is gone; to be asked when the descriptor is readable."""
        return not os.read(self.fd, 1)


class Mouth:
    """Our standard output, for the one line that the agent reads from it.

    What the servable prints goes to standard error instead, so that it cannot be taken for that line.
    """

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.set_inheritable(self._fd, False)
        sys.stdout.flush()
        os.dup2(2, 1)

    def say(self, message: ReplicaSays) -> None:
        """Tells the agent, once; one that is gone need not know."""
        line = memoryview(encode_line(message))
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except BrokenPipeError:
            sys.stderr.write("the agent is gone: it does not read what this replica has to say\n")
        os.close(self._fd)


def print_whole_lines() -> None:
    """What this process prints is written line by line: the other ranks write to the same log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Unbuffered, as replicas are, print() writes the end of a line by itself.
            stream.reconfigure(line_buffering=True, write_through=False)
