"""What the supervisor tells the processes that it starts, and what they and it report back, as JSON lines.

A child gets ``--site SITE`` and one :class:`ChildStart` on its standard input, which then stays open as its
lifeline. It writes one :class:`ChildReport` to ``report_fd``: when it is ready to be called and to be
signalled, or why it cannot be. The supervisor itself writes one :class:`DaemonReport` to whoever started it.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from hpcserve.config import Site, load_site
from hpcserve.errors import BY_CODE, ConfigError, HpcserveError, ServiceUnavailable
from hpcserve.types import Epoch
from hpcserve.wire.record import ServiceRecord

HUB = "hub"
"""The broker's internal socket: this name in the runtime directory."""
SERVICE_KEY = Path("keys") / "service.key"
AUTHORIZED_KEYS = "authorized_keys"
"""Both below the state directory."""
ENROLMENTS = "enrolments"
"""The directory of the pilots' secrets, below the shared one."""

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>
T = TypeVar("T")


class ChildError(msgspec.Struct, frozen=True, kw_only=True):
    """An error as JSON; ``code`` finds the class in :mod:`hpcserve.errors`."""

    code: str
    message: str

    def as_exception(self) -> HpcserveError:
        """The exception that it stands for."""
        return BY_CODE.get(self.code, HpcserveError)(self.message)


class ChildStart(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a child must know besides the site.

    ``epoch`` is the broker's present one. ``ports`` lists, for each of a child's sockets, the ports to try,
    in this order; 0 is any free port. ``placed`` names the site of a daemon that runs in a job, or is empty.
    """

    name: str
    epoch: Epoch
    runtime_dir: str
    record: str
    ports: dict[str, tuple[int, ...]]
    report_fd: int
    placed: str = ""


class ChildReport(msgspec.Struct, frozen=True, kw_only=True):
    """Without an ``error``: the child is ready, and its sockets have these ZeroMQ addresses.

    A socket that is a file too has its path as ``NAME_file``.
    """

    addresses: dict[str, str] = {}
    error: ChildError | None = None


class DaemonReport(msgspec.Struct, frozen=True, kw_only=True):
    """Without an ``error``: the daemon is ready, and this is its record, as it stands in the file ``path``.

    ``elsewhere``: there is none, since the site wants its daemon in a job. ``waits``: what the start waits for, in
    words; another report follows.
    """

    waits: str = ""
    path: str = ""
    elsewhere: bool = False
    record: ServiceRecord | None = None
    error: ChildError | None = None


def in_json(error: HpcserveError) -> ChildError:
    """The struct that stands for ``error``."""
    return ChildError(code=error.code, message=error.message)


def encode_line(message: ChildStart | ChildReport | DaemonReport) -> bytes:
    """The message as one line of JSON."""
    return msgspec.json.encode(message) + b"\n"


def decode_line(line: bytes, kind: type[T]) -> T:
    """The message of one line.

    Raises:
        msgspec.MsgspecError: The line is something else.
    """
    return msgspec.json.decode(line, type=kind)


def leave_no_core() -> None:
    """This process, and what it starts, writes no core file: keys and tokens are in its memory."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def close_proc() -> None:
    """Linux: other processes of the same user may no longer look into this one: its memory, files, environment, root.

    Nor may a debugger or a profiler of theirs. What this process starts is as open as ever.
    Source: prctl(2), PR_SET_DUMPABLE; proc(5).
    """
    if sys.platform == "linux":
        import ctypes  # here: only few sites need it

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def receive_start(name: str, argv: Sequence[str] | None = None) -> tuple[Site, ChildStart]:
    """Reads, in a child, what the supervisor said. Standard input is the lifeline from then on.

    Args:
        name: The child's own name.
        argv: The arguments, by default this process's.

    Raises:
        ConfigError: The child was not started by a supervisor, or its site is wrong.
    """
    leave_no_core()
    parser = argparse.ArgumentParser(prog=f"python -m hpcserve.daemon.{name}")
    parser.add_argument("--site", help="the name of a site or the path of its file")
    options = parser.parse_args(argv)
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            raise ConfigError(f"the daemon's {name} is started by its supervisor alone: use `hpcserve up`")
        line += part
    site = load_site(options.site)
    if site.mode == "service":
        close_proc()  # the processes of this user run many people's code
    return site, decode_line(line, ChildStart)


def report_ready(start: ChildStart, addresses: dict[str, str]) -> None:
    """Says that the child is ready and where its sockets are; says nothing further."""
    _report(start, ChildReport(addresses=addresses))


def report_error(start: ChildStart, error: HpcserveError) -> None:
    """Says why the child cannot start; says nothing further."""
    _report(start, ChildReport(error=in_json(error)))


def hub_address(runtime_dir: str) -> str:
    """The ZeroMQ address of the broker's internal socket."""
    return f"ipc://{runtime_dir}/{HUB}"


def _report(start: ChildStart, report: ChildReport) -> None:
    try:
        os.write(start.report_fd, encode_line(report))
    except BrokenPipeError as error:
        raise ServiceUnavailable("the supervisor is gone") from error
    finally:
        os.close(start.report_fd)
