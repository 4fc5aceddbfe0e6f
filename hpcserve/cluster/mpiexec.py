"""The command lines of ``mpiexec``, and what its end says of the ranks that it had started. Pure.

Hydra (MPICH, Intel MPI, MVAPICH) and PALS understand the same few options; Open MPI has others. The process carries
standard input to rank 0, and the output of all. A SIGTERM to it reaches all ranks, which may live on; its own death
kills them.

Source: mpiexec(1) of MPICH 4.3, of Open MPI 4.1 and 5.0, and of Cray PALS 1.2; MPICH was run here, and Open MPI 5.0 on
one node.
"""

from __future__ import annotations

import re

from hpcserve.cluster.seam import LaunchEnd
from hpcserve.wire.launch import MpiRules

_SHELL_SIGNALS = 128
_MOST_SIGNALS = 64
_BY_SIGNAL = re.compile(r"YOUR APPLICATION TERMINATED WITH THE EXIT STRING: .*\(signal (\d+)\)")
# Hydra and Open MPI reach other nodes by ssh, where no scheduler's own means are found; so says OpenSSH.
_UNREACHED = re.compile(r"ssh: connect to host (\S+) port \d+: (?:No route to host|Connection timed out)")


def across(mpi: MpiRules, argv: tuple[str, ...], nodes: tuple[str, ...], per_node: int) -> tuple[str, ...]:
    """Runs ``argv`` on these nodes, so often on each, the ranks in blocks."""
    return (*_head(mpi, nodes, per_node), *argv)


def here(mpi: MpiRules, argv: tuple[str, ...], node: str, ranks: int) -> tuple[str, ...]:
    """Runs ``argv`` so often on the node where it is called, whatever a scheduler's variables say of others."""
    if mpi.family == "openmpi":
        return (*_head(mpi, (node,), ranks, "--mca", "plm", "^slurm,tm", "--mca", "ras", "^slurm,tm"), *argv)
    return (*_head(mpi, ("localhost",), ranks, "--launcher", "fork"), *argv)


def _head(mpi: MpiRules, nodes: tuple[str, ...], per_node: int, *more: str) -> tuple[str, ...]:
    head = (mpi.command, *mpi.options, *more, "-n", str(len(nodes) * per_node))
    if mpi.family == "openmpi":  # by default it fills a host's slots before it goes to the next one
        return (*head, "--bind-to", "none", "--host", ",".join(f"{node}:{per_node}" for node in nodes))
    return (*head, "--ppn", str(per_node), "--hosts", ",".join(nodes))


def spoke(output: str) -> bool:
    """Whether Hydra itself has said how a rank ended."""
    return _BY_SIGNAL.search(output) is not None


def ended(exit_code: int, output: str) -> LaunchEnd:
    """The exit code of the rank that ended badly first; Hydra tells of its signal in words."""
    told = _BY_SIGNAL.findall(output)
    number = int(told[-1]) if told else exit_code - _SHELL_SIGNALS
    code = -number if 0 < number <= _MOST_SIGNALS else exit_code
    # A servable may use ssh too: what that says is nothing of a group that has ended in order.
    unreached = [line for line in output.splitlines() if _UNREACHED.match(line)] if exit_code else []
    if unreached:
        nodes = tuple(_UNREACHED.findall("\n".join(unreached)))
        return LaunchEnd(code, "node failed", "\n".join(unreached), lost_node=True, lost_nodes=nodes)
    return LaunchEnd(code)
