"""NVIDIA's Multi-Process Service on the nodes of a pilot: replicas that share a GPU compute on it at the same time.

One control daemon on each node, in a directory that is this pilot's alone. A shell holds it: the shell's standard input
comes from here, and the end of that input, which is also the agent's end, ends the control daemon and removes the
directory. So nothing is left of it wherever a launcher started it.

The control daemon is to see all GPUs of the job, by the numbers that replicas know: what ``CUDA_VISIBLE_DEVICES`` names
for it, it numbers anew.

Source: the guide to Multi-Process Service, "Environment Variables" and "nvidia-cuda-mps-control".
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from hpcserve.cluster.processes import exit_in_words, reap, signal_group, spawn
from hpcserve.cluster.seam import Launcher
from hpcserve.errors import ConfigError
from hpcserve.wire.launch import ContainerRules

_log = logging.getLogger(__name__)

START_S = 60.0
"""So long the control daemons may take to be there."""
_END_S = 10.0
_TURN_S = 0.2
_LOOK_S = 0.02
_OF_SITE = "pilots.mps: nvidia-cuda-mps-control"
_READY = b"ready\n"
# Signals that reach all processes of a job are not for this one: replicas still compute then.
_HOLD = """trap '' TERM INT HUP USR1
umask 077
mkdir "$1" && mkdir "$1/pipe" "$1/log" || exit
export CUDA_MPS_PIPE_DIRECTORY="$1/pipe" CUDA_MPS_LOG_DIRECTORY="$1/log"
unset CUDA_VISIBLE_DEVICES
nvidia-cuda-mps-control -d </dev/null >"$1/said" 2>&1
code=$?
if [ "$code" = 0 ]; then
    echo ready
    cat >/dev/null
    echo quit | nvidia-cuda-mps-control >/dev/null 2>&1
else
    cat "$1/said" >&2
fi
rm -rf "$1"
exit "$code"
"""


def place(incarnation: str) -> str:
    """The directory on each node. It is short, for sockets stand in it, and local, for they are of one node."""
    return f"/tmp/hpcserve-mps-{incarnation}"  # noqa: S108 (mkdir refuses one that is there)


def variables(incarnation: str) -> Mapping[str, str]:
    """By which programs find the control daemon of their node."""
    where = place(incarnation)
    return MappingProxyType({"CUDA_MPS_PIPE_DIRECTORY": f"{where}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{where}/log"})


def seen_in(rules: ContainerRules, incarnation: str) -> ContainerRules:
    """The rules for containers whose programs find it too: it speaks by memory that they share."""
    where = place(incarnation)
    return msgspec.structs.replace(
        rules,
        binds=(*rules.binds, f"{where}:{where}:rw"),
        environment=(*rules.environment, *variables(incarnation)),
        host_ipc=True,
    )


@dataclass(slots=True)
class _Held:
    node: str
    pid: int
    stdin: int
    stdout: int
    said: bytes = b""


class Mps:
    """The control daemons of one pilot.

    Args:
        launcher: Starts processes on its nodes.
        nodes: Their names.
        incarnation: The pilot's.
    """

    def __init__(self, launcher: Launcher, nodes: Sequence[str], incarnation: str) -> None:
        self._launcher = launcher
        self._nodes = nodes
        self._argv = ("sh", "-c", _HOLD, "sh", place(incarnation))
        self._held: list[_Held] = []

    def start(self, is_over: Callable[[], bool], within_s: float = START_S) -> None:
        """Starts one on each node and waits until all are there; gives up waiting when ``is_over``.

        Raises:
            ConfigError: One cannot be started.
        """
        for node in self._nodes:
            self._held.append(self._start(node))
        deadline = time.monotonic() + within_s
        while not is_over():
            missing = [each for each in self._held if _READY not in each.said]
            if not missing:
                _log.info("nvidia-cuda-mps-control runs on %s", ", ".join(self._nodes))
                return
            if time.monotonic() >= deadline:
                names = ", ".join(each.node for each in missing)
                raise ConfigError(f"{_OF_SITE}: it was not there on {names} within {within_s:g} s")
            readable, _, _ = select.select([each.stdout for each in missing], [], [], _TURN_S)
            for each in missing:
                if each.stdout in readable:
                    self._hear(each)

    def stop(self) -> None:
        """Ends them all. To be called when no replica is left."""
        for each in self._held:
            _close(each)
        # A launcher has a SIGTERM for a wish to end what it started elsewhere; a shell here does not heed it.
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
            deadline = time.monotonic() + _END_S
            while self._reaped() and time.monotonic() < deadline:
                time.sleep(_LOOK_S)
            for each in self._held:
                _log.warning("nvidia-cuda-mps-control on %s does not end; it is killed", each.node)
                signal_group(each.pid, number)

    def _reaped(self) -> bool:
        """Whether some are left of those that have not ended yet."""
        self._held = [each for each in self._held if reap(each.pid) is None]
        return bool(self._held)

    def _hear(self, held: _Held) -> None:
        """Takes what a shell says.

        Raises:
            ConfigError: It has ended instead.
        """
        chunk = os.read(held.stdout, 4096)
        held.said += chunk
        code = None
        while not chunk and code is None:
            time.sleep(0.01)
            code = reap(held.pid)
        if code is not None:
            self._held.remove(held)
            _close(held)
            raise ConfigError(
                f"{_OF_SITE} cannot be started on {held.node} ({exit_in_words(code)}; what it said stands above): load "
                "the module that has it in pilots.setup, or set pilots.mps = false"
            )

    def _start(self, node: str) -> _Held:
        stdin, to_stdin = os.pipe()
        from_stdout, stdout = os.pipe()
        argv = self._launcher.command(self._argv, node)
        try:
            pid = spawn(argv, environment=os.environ, stdin=stdin, stdout=stdout, stderr=sys.stderr.fileno())
        except OSError as error:
            raise ConfigError(f"{_OF_SITE}: it cannot be started on {node}: {error}") from error
        finally:
            os.close(stdin)
            os.close(stdout)
        return _Held(node, pid, to_stdin, from_stdout)


def _close(held: _Held) -> None:
    os.close(held.stdin)
    os.close(held.stdout)
