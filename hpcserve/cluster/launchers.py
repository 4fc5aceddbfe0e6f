"""Launchers ``process``, for the agent's own node, ``srun``, for all nodes of a Slurm job, and ``mpiexec``.

Decides neither when a replica is started nor on which nodes. All of them start the ranks of one replica by one process;
where there are several, it is not the replica, but stands for them.
"""

from __future__ import annotations

import re
import signal

from hpcserve.cluster import mpiexec
from hpcserve.cluster.hostlist import expanded
from hpcserve.cluster.seam import LaunchEnd
from hpcserve.types import LossKind
from hpcserve.wire.launch import MpiRules

_SHELL_SIGNALS = 128  # srun's exit code for a task that a signal ended is this and the signal's number
_MOST_SIGNALS = 64

# srun and slurmstepd begin each line of their own so; what they say was seen in Slurm 22.05.
_NODES = r"(?P<nodes>[^\s,\[]+(\[[^\]]*\])?(,[^\s,\[]+(\[[^\]]*\])?)*)"
_SAYS: tuple[tuple[re.Pattern[str], LossKind], ...] = (
    (re.compile(rf"srun: error: Node failure on {_NODES}"), "node failed"),
    (re.compile(r"srun: error: .*(Requested node configuration|Required node) (is )?not available"), "node failed"),
    (re.compile(r"srun: error: .*Invalid node name specified"), "node failed"),
    (re.compile(r"slurmstepd\S*: error: .*\boom_kill event"), "out of memory"),
    (re.compile(r"slurmstepd\S*: error: .*[Ee]xceeded (job |step )?memory limit"), "out of memory"),
    (re.compile(r"srun: error: \S+: tasks? [\d,-]+: Out Of Memory"), "out of memory"),
    (re.compile(r"srun: error: .*(Unable to contact slurm controller|Socket timed out)"), "unreachable"),
    (re.compile(r"slurmstepd\S*: error: \*\*\* \w+ .* CANCELLED AT .* DUE TO TIME LIMIT"), "walltime"),
    (re.compile(r"slurmstepd\S*: error: \*\*\* \w+ .* CANCELLED AT .* DUE TO PREEMPTION"), "preempted"),
    (re.compile(r"slurmstepd\S*: error: \*\*\* \w+ .* CANCELLED AT .* DUE TO NODE FAILURE"), "node failed"),
)
_CANCELLED = re.compile(r"slurmstepd\S*: error: \*\*\* \w+ .* CANCELLED AT ")
# With --kill-on-bad-exit the first task that ends badly has the others ended, and so has MPI_Abort: no cancellations.
_BAD_TASK = re.compile(r"srun: error: \S+: tasks? [\d,-]+: (?:Exited with exit code (?P<code>\d+)|(?P<signal>[^(]+))")
_ABORTED = re.compile(r"Abort\(-?\d+\) on node \d+|MPI_ABORT was invoked on rank \d+")
_SIGNALS = {signal.strsignal(each): -each for each in signal.valid_signals()}


class ProcessLauncher:
    """Runs a replica as a plain process of the agent's own node; one of several ranks by the site's mpiexec."""

    elsewhere = False
    dies_whole = True

    def __init__(self, mpi: MpiRules) -> None:
        self._mpi = mpi

    def command(self, argv: tuple[str, ...], node: str) -> tuple[str, ...]:
        """``argv``, unchanged."""
        return argv

    def group(self, argv: tuple[str, ...], nodes: tuple[str, ...], per_node: int) -> tuple[str, ...]:
        """By mpiexec, on this node."""
        return mpiexec.here(self._mpi, argv, nodes[0], per_node)

    def ended(self, exit_code: int, output: str) -> LaunchEnd:
        """The exit code, unchanged: nobody stands in between who could say more, unless it is mpiexec."""
        return mpiexec.ended(exit_code, output) if mpiexec.spoke(output) else LaunchEnd(exit_code)


class MpiexecLauncher:
    """Runs replicas on all nodes of the job by the site's mpiexec."""

    elsewhere = True
    dies_whole = True

    def __init__(self, mpi: MpiRules) -> None:
        self._mpi = mpi

    def command(self, argv: tuple[str, ...], node: str) -> tuple[str, ...]:
        """One rank."""
        return self.group(argv, (node,), 1)

    def group(self, argv: tuple[str, ...], nodes: tuple[str, ...], per_node: int) -> tuple[str, ...]:
        """So many ranks on each of the nodes."""
        return mpiexec.across(self._mpi, argv, nodes, per_node)

    def ended(self, exit_code: int, output: str) -> LaunchEnd:
        """The exit code of the rank that ended badly first, and what mpiexec said beside it."""
        return mpiexec.ended(exit_code, output)


class SrunLauncher:
    """Runs a replica as a job step of its own, on one node or several.

    srun takes a SIGTERM for a wish to end the step at once, by SIGKILL; a SIGKILL of srun itself leaves the replica
    running. The end of its standard input reaches the replica, of several ranks the first.

    Source: srun(1), and what srun of Slurm 22.05 does.
    """

    elsewhere = True
    dies_whole = False

    def __init__(self, mpi: MpiRules) -> None:
        self._pmi = mpi.pmi

    def command(self, argv: tuple[str, ...], node: str) -> tuple[str, ...]:
        """A step that shares all that the job has on the node: CPUs, memory and GPUs."""
        return self._step((node,), 1, "--mpi=none", *argv)

    def group(self, argv: tuple[str, ...], nodes: tuple[str, ...], per_node: int) -> tuple[str, ...]:
        """Such a step on several nodes; its ranks are in blocks, in the order that the job has its nodes in."""
        return self._step(
            nodes,
            per_node,
            f"--ntasks-per-node={per_node}",
            "--overcommit",  # how many there may be, the slots say
            "--distribution=block",
            f"--mpi={self._pmi}",
            "--kill-on-bad-exit=1",
            "--input=0",
            *argv,
        )

    def _step(self, nodes: tuple[str, ...], per_node: int, *more: str) -> tuple[str, ...]:
        return (
            "srun",
            "--overlap",
            f"--nodes={len(nodes)}",
            f"--ntasks={len(nodes) * per_node}",
            f"--nodelist={','.join(nodes)}",
            "--cpu-bind=none",  # one task would be bound to one CPU
            "--quiet",  # errors stand in the replica's log, and nothing else of srun
            "--export=ALL",  # also where sbatch was told to export nothing
            *more,
        )

    def ended(self, exit_code: int, output: str) -> LaunchEnd:
        """The exit code of the task that ended badly first, and what Slurm said beside it.

        srun ends with 0 when the node of its only task has failed.
        """
        number = exit_code - _SHELL_SIGNALS
        code = -number if 0 < number <= _MOST_SIGNALS else exit_code
        lines = output.splitlines()
        for pattern, kind in _SAYS:
            said = [found for line in lines if (found := pattern.match(line))]
            if said:
                told = "\n".join(found.string for found in said)
                lost = tuple(node for found in said for node in expanded(found.groupdict().get("nodes") or ""))
                return LaunchEnd(code, kind, told, lost_node=kind == "node failed", lost_nodes=lost)
        return self._of_tasks(code, lines)

    def _of_tasks(self, code: int, lines: list[str]) -> LaunchEnd:
        for line in lines:
            task = _BAD_TASK.match(line)
            if task is not None:
                return LaunchEnd(int(task["code"]) if task["code"] else _SIGNALS.get(task["signal"].strip(), code))
            if _ABORTED.match(line):
                return LaunchEnd(code)
            if _CANCELLED.match(line):
                return LaunchEnd(code, "cancelled", "\n".join(each for each in lines if _CANCELLED.match(each)))
        return LaunchEnd(code)
