"""The command line and the environment of a replica, from its servable's manifest. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpcserve.cluster.seam import Launcher
from hpcserve.servable.environment import argv_for
from hpcserve.servable.manifest import Environment, from_json

REPLICA_MODULE = "hpcserve.replica"


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. Where it sees the servable and the service record elsewhere than its agent, it says so."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    servable: str = ""
    record: str = ""


def replica_command(manifest: str, node: str, *, launcher: Launcher, inherited: Mapping[str, str]) -> Command:
    """The command that runs a replica.

    Args:
        manifest: The servable's manifest as JSON.
        node: Where it is to run.
        launcher: How this site starts processes.
        inherited: The agent's own environment.

    Raises:
        ManifestError: The manifest is not one, or its interpreter is not there.
    """
    environment = from_json(manifest).environment
    argv = launcher.command(tuple(argv_for(environment, REPLICA_MODULE)), node)
    return Command(argv, _environment(environment, inherited))


def _environment(kind: Environment, inherited: Mapping[str, str]) -> dict[str, str]:
    """Without hpcserve's own settings, and without what would bend another interpreter out of shape.

    PYTHONPATH stays for the daemon's own interpreter: facilities' software modules set it.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("HPCSERVE_", "PYTHON")) or (name == "PYTHONPATH" and kind.kind == "same")
    }
    # No bytecode: the servable's directory is a published version, which nothing changes.
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1"}
