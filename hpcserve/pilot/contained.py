"""The command of a replica in a container. Starts nothing; looks whether the image is the published one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hpcserve.cluster import guest
from hpcserve.cluster.containers import contained
from hpcserve.cluster.seam import Launcher
from hpcserve.errors import ConfigError, ManifestError
from hpcserve.pilot.command import REPLICA_MODULE, Command, launched, replica_command, wanted_in_words
from hpcserve.pilot.ranks import Place
from hpcserve.servable.manifest import Environment, from_json
from hpcserve.wire.agents import ReplicaSpec
from hpcserve.wire.launch import ContainerRules, MpiRules, StagingRules
from hpcserve.wire.record import ALONE

# No bytecode: the servable's directory is a published version, which nothing changes.
_VARIABLES = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def any_command(
    spec: ReplicaSpec,
    place: Place,
    staged: str = "",
    *,
    slots: int,
    launcher: Launcher,
    inherited: Mapping[str, str],
    prologue: Sequence[str] = (),
    bind: str = "none",
    rules: ContainerRules,
    mpi: MpiRules,
    record: Path,
    staging: StagingRules,
) -> Command:
    """The command that runs a replica, in a container if its servable has an image.

    Args:
        spec: What the controller orders.
        place: Where it is to run.
        staged: The path of the copies of its image there, empty if no node has one.
        slots: How many each node has.
        launcher: How this site starts processes.
        inherited: The agent's own environment.
        prologue: Shell lines of the site that run before the interpreters of users' own environments.
        bind: Whether replicas are bound to processors: of the site file.
        rules: How this site runs containers.
        mpi: How it starts MPI ranks.
        record: The service record.
        staging: How it stages results and inputs.

    Raises:
        ManifestError: The manifest is not one, its interpreter is not there, or its image is not the published one.
    """
    whole = from_json(spec.manifest)
    environment = whole.environment
    if environment.kind != "container":
        return replica_command(
            spec.manifest, place, slots=slots, launcher=launcher, inherited=inherited, prologue=prologue, bind=bind
        )
    check_image(environment)
    seen = guest.seen(staging.directory, staging.roots)
    inside = guest.guest(
        REPLICA_MODULE,
        *wanted_in_words(whole.ranks, bind),
        *place.arguments(slots),
        image=str(environment.image),
        python=environment.python,
        packages=environment.published.packages if environment.published else "",
        servable=spec.servable,
        record_dir=record.parent / ALONE,
        environment=_VARIABLES,
        staging=seen,
    )
    of_ranks = mpi if len(place.ranks) > 1 else None
    try:
        made = contained(rules, replace(inside, staged=staged), _without_ours(inherited), of_ranks)
    except ConfigError as error:
        raise ManifestError(f"image {environment.image}: {error.message}") from error
    return Command(launched(launcher, made.argv, place), made.environment, guest.SERVABLE, guest.RECORD, seen)


def check_image(environment: Environment) -> None:
    """Whether the image is as it was when its servable was published: by size and time, since it may be many GB.

    What it lacks is to be there too.

    Raises:
        ManifestError: It is not.
    """
    image, published = environment.image, environment.published
    if published is None:
        raise ManifestError(f"image {image}: nobody has looked at it yet; publish the servable again")
    try:
        now = Path(str(image)).stat()
    except OSError as error:
        raise ManifestError(
            f"image {image}: {error.strerror}; put it back where it was when the servable was published, or publish "
            "and deploy the servable again"
        ) from error
    if (now.st_size, now.st_mtime_ns) != (published.size_bytes, published.mtime_ns):
        raise ManifestError(
            f"image {image} changed after the servable was published with the one of sha256 {published.sha256[:12]}…; "
            "publish and deploy the servable again"
        )
    if published.packages and not Path(published.packages).is_dir():
        raise ManifestError(
            f"{published.packages}: not there any more, with the packages that the Python of image {image} lacks; "
            f"gather them again by hpcserve container runtime {image}, then publish and deploy the servable again"
        )


def _without_ours(inherited: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in inherited.items() if not name.startswith("HPCSERVE_")}
