"""Launchers ``process``, for the agent's own node, and ``srun``, for all nodes of a Slurm job.

Decides neither when a replica is started nor on which node.
"""

from __future__ import annotations

import re

from hpcserve.cluster.seam import LaunchEnd
from hpcserve.types import LossKind

_SHELL_SIGNALS = 128  # srun's exit code for a task that a signal ended is this and the signal's number
_MOST_SIGNALS = 64

# srun and slurmstepd begin each line of their own so; what they say was seen in Slurm 22.05.
_SAYS: tuple[tuple[re.Pattern[str], LossKind], ...] = (
    (re.compile(r"srun: error: Node failure on "), "node failed"),
    (re.compile(r"srun: error: .*(Requested node configuration|Required node) (is )?not available"), "node failed"),
    (re.compile(r"srun: error: .*Invalid node name specified"), "node failed"),
    (re.compile(r"slurmstepd\S*: error: .*\boom_kill event"), "out of memory"),
    (re.compile(r"slurmstepd\S*: error: .*[Ee]xceeded (job |step )?memory limit"), "out of memory"),
    (re.compile(r"srun: error: \S+: task 0: Out Of Memory"), "out of memory"),
    (re.compile(r"srun: error: .*(Unable to contact slurm controller|Socket timed out)"), "unreachable"),
    (re.compile(r"slurmstepd\S*: error: \*\*\* \w+ .* CANCELLED AT .* DUE TO TIME LIMIT"), "walltime"),
    (re.compile(r"slurmstepd\S*: error: \*\*\* \w+ .* CANCELLED AT .* DUE TO PREEMPTION"), "preempted"),
    (re.compile(r"slurmstepd\S*: error: \*\*\* \w+ .* CANCELLED AT .* DUE TO NODE FAILURE"), "node failed"),
    (re.compile(r"slurmstepd\S*: error: \*\*\* \w+ .* CANCELLED AT "), "cancelled"),
)


class ProcessLauncher:
    """Runs a replica as a plain process of the agent's own node."""

    elsewhere = False

    def command(self, argv: tuple[str, ...], node: str) -> tuple[str, ...]:
        """``argv``, unchanged."""
        return argv

    def group(self, argv: tuple[str, ...], nodes: tuple[str, ...], per_node: int) -> tuple[str, ...]:
        """``argv``, unchanged: one rank on one node."""
        assert (len(nodes), per_node) == (1, 1), "it starts one process"
        return argv

    def ended(self, exit_code: int, output: str) -> LaunchEnd:
        """The exit code, unchanged: nobody stands in between who could say more."""
        return LaunchEnd(exit_code)


class SrunLauncher:
    """Runs a replica as a job step of its own on one node.

    srun takes a SIGTERM for a wish to end the step at once, by SIGKILL; a SIGKILL of srun itself leaves the replica
    running. The end of its standard input reaches the replica.

    Source: srun(1), and what srun of Slurm 22.05 does.
    """

    elsewhere = True

    def command(self, argv: tuple[str, ...], node: str) -> tuple[str, ...]:
        """A step that shares all that the job has on the node: CPUs, memory and GPUs."""
        return (
            "srun",
            "--overlap",
            "--nodes=1",
            "--ntasks=1",
            f"--nodelist={node}",
            "--cpu-bind=none",  # one task would be bound to one CPU
            "--mpi=none",
            "--quiet",  # errors stand in the replica's log, and nothing else of srun
            "--export=ALL",  # also where sbatch was told to export nothing
            *argv,
        )

    def group(self, argv: tuple[str, ...], nodes: tuple[str, ...], per_node: int) -> tuple[str, ...]:
        """Such a step on several nodes."""
        return (
            "srun",
            "--overlap",
            f"--nodes={len(nodes)}",
            f"--ntasks={len(nodes) * per_node}",
            f"--ntasks-per-node={per_node}",
            "--overcommit",
            f"--nodelist={','.join(nodes)}",
            "--distribution=block",
            "--cpu-bind=none",
            "--mpi=pmi2",
            "--kill-on-bad-exit=1",
            "--input=0",
            "--quiet",
            "--export=ALL",
            *argv,
        )

    def ended(self, exit_code: int, output: str) -> LaunchEnd:
        """The task's exit code, and what Slurm said beside it. srun ends with 0 when the node has failed."""
        number = exit_code - _SHELL_SIGNALS
        code = -number if 0 < number <= _MOST_SIGNALS else exit_code
        lines = output.splitlines()
        for pattern, kind in _SAYS:
            said = [line for line in lines if pattern.match(line)]
            if said:
                return LaunchEnd(code, kind, "\n".join(said), lost_node=kind == "node failed")
        return LaunchEnd(code)
