"""The command line and the environment of a replica, from its servable's manifest. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcserve.cluster.seam import Launcher
from hpcserve.servable.environment import argv_for, variables_for
from hpcserve.servable.manifest import Ranks, from_json

REPLICA_MODULE = "hpcserve.replica"


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. Where it sees the servable and the service record elsewhere than its agent, it says so."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    servable: str = ""
    record: str = ""


def slots_in_words(node_slots: int, ranks: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """The replica's arguments that say which slots each rank holds of the ``node_slots`` of its node."""
    return "--node-slots", str(node_slots), "--ranks", ":".join(",".join(map(str, held)) for held in ranks)


def wanted_in_words(ranks: Ranks, bind: str) -> tuple[str, ...]:
    """The replica's arguments that say what each rank takes of its node; ``bind``: of the site file."""
    gpus = ("--gpus-per-rank", str(ranks.gpus_per_rank)) if ranks.gpus_per_rank else ()
    return (*gpus, "--bind", bind) if bind != "none" else gpus


def replica_command(
    manifest: str,
    node: str,
    arguments: Sequence[str] = (),
    *,
    launcher: Launcher,
    inherited: Mapping[str, str],
    prologue: Sequence[str] = (),
    bind: str = "none",
) -> Command:
    """The command that runs a replica.

    Args:
        manifest: The servable's manifest as JSON.
        node: Where it is to run.
        arguments: Its own, of :func:`slots_in_words`.
        launcher: How this site starts processes.
        inherited: The agent's own environment.
        prologue: Shell lines of the site that run before the interpreters of users' own environments.
        bind: Whether replicas are bound to processors: of the site file.

    Raises:
        ManifestError: The manifest is not one, or its interpreter is not there.
    """
    whole = from_json(manifest)
    environment = whole.environment
    arguments = (*arguments, *wanted_in_words(whole.ranks, bind))
    argv = launcher.command(tuple(argv_for(environment, REPLICA_MODULE, *arguments, prologue=prologue)), node)
    return Command(argv, variables_for(environment, inherited))
