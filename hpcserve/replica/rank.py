"""Which rank of a replica a process is, before there is MPI: its number, and what of its node is to be its. Pure.

MPI libraries that know GPUs look for them in ``MPI_Init``, so a rank must know its own before. The agent says of all
ranks which slots they hold, in one command line for all of them; which of them a process is, its launcher says.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from hpcserve.wire.launch import NO_TOPOLOGY_FILE

RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PALS_RANKID", "SLURM_PROCID")
"""Where launchers say which rank a process is; the first that is there counts."""
USAGE = (
    "usage: python -m hpcserve.replica [--node-slots S --ranks SLOT[,SLOT…][:SLOT[,SLOT…]…]] [--gpus-per-rank N] "
    "[--bind none|numa]"
)
_OPTIONS = {"--node-slots", "--ranks", "--gpus-per-rank", "--bind"}


@dataclass(frozen=True)
class Rank:
    """A rank among the ranks of its replica.

    Attributes:
        rank: Its number, from 0; None where its launcher does not say.
        size: How many there are to be.
        held: The slots of its node that it holds, counted from 0. Where more run on a node than it has slots, because
            some have not ended yet, they are larger than those numbers.
        node_slots: How many slots its node has.
        gpus: How many whole GPUs are to be its own; 0: what its slots have is enough.
        bind: Whether it is bound to processors: ``pilots.bind`` of the site file.
    """

    rank: int | None
    size: int
    held: tuple[int, ...]
    node_slots: int
    gpus: int = 0
    bind: str = "none"


def rank_of(arguments: Sequence[str], environment: Mapping[str, str]) -> Rank:
    """What the agent and the launcher have told.

    Args:
        arguments: ``--node-slots S --ranks 0:1:0:1``: the slots of each rank in order, with ``,`` between those of one
            rank; ``--gpus-per-rank``, ``--bind``; none of them: one rank, alone on its node.
        environment: The process's own.

    Raises:
        ValueError: The arguments are something else.
    """
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if len(arguments) % 2 or not set(options) <= _OPTIONS:
        raise ValueError(USAGE)
    node_slots = int(options.get("--node-slots", "1"))
    ranks = [tuple(map(int, held.split(","))) for held in options.get("--ranks", "0").split(":")]
    rank = 0 if len(ranks) == 1 else _told(environment)
    held = ranks[rank] if rank is not None and rank < len(ranks) else ranks[0]
    gpus, bind = int(options.get("--gpus-per-rank", "0")), options.get("--bind", "none")
    return Rank(rank, len(ranks), held, node_slots, gpus, bind)


def forget_launcher(environment: MutableMapping[str, str]) -> None:
    """Removes what the agent has told the launcher alone: the servable's libraries would look for that file."""
    for name, value in NO_TOPOLOGY_FILE.items():
        if environment.get(name) == value:
            del environment[name]


def _told(environment: Mapping[str, str]) -> int | None:
    found = next((environment[name] for name in RANK_VARIABLES if name in environment), "")
    return int(found) if found.isdigit() else None
