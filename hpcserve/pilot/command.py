"""The command line and the environment of a replica, from its servable's manifest. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpcserve.cluster.seam import Launcher
from hpcserve.pilot.ranks import Place
from hpcserve.servable.environment import argv_for, variables_for
from hpcserve.servable.manifest import Ranks, from_json

REPLICA_MODULE = "hpcserve.replica"


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. Where it sees the servable and the service record elsewhere than its agent, it says so.

    ``seen``: where it sees the directories of staged results and of references.
    """

    argv: tuple[str, ...]
    environment: dict[str, str]
    servable: str = ""
    record: str = ""
    seen: dict[str, str] = field(default_factory=dict)


def wanted_in_words(ranks: Ranks, bind: str) -> tuple[str, ...]:
    """The replica's arguments that say what each rank takes of its node; ``bind``: of the site file."""
    gpus = ("--gpus-per-rank", str(ranks.gpus_per_rank)) if ranks.gpus_per_rank else ()
    return (*gpus, "--bind", bind) if bind != "none" else gpus


def replica_command(
    manifest: str,
    place: Place,
    *,
    slots: int,
    launcher: Launcher,
    inherited: Mapping[str, str],
    prologue: Sequence[str] = (),
    bind: str = "none",
) -> Command:
    """The command that runs a replica.

    Args:
        manifest: The servable's manifest as JSON.
        place: Where it is to run.
        slots: How many each node has.
        launcher: How this site starts processes.
        inherited: The agent's own environment.
        prologue: Shell lines of the site that run before the interpreters of users' own environments.
        bind: Whether replicas are bound to processors: of the site file.

    Raises:
        ManifestError: The manifest is not one, or its interpreter is not there.
    """
    whole = from_json(manifest)
    environment = whole.environment
    arguments = (*wanted_in_words(whole.ranks, bind), *place.arguments(slots))
    argv = argv_for(environment, REPLICA_MODULE, *arguments, prologue=prologue)
    return Command(launched(launcher, tuple(argv), place), variables_for(environment, inherited))


def launched(launcher: Launcher, argv: tuple[str, ...], place: Place) -> tuple[str, ...]:
    """The command that runs ``argv`` as all ranks of a replica."""
    if len(place.ranks) == 1:
        return launcher.command(argv, place.nodes[0])
    return launcher.group(argv, place.nodes, place.per_node)
