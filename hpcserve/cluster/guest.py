"""What of hpcserve a container sees, and where: its package, a servable, the service record, packages of Python. Pure.

The package is that of who starts the container, so nothing of hpcserve has to be in an image, and the two cannot be of
different versions. Secrets come by standard input alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hpcserve import bootstrap
from hpcserve.cluster.containers import Bind, Inside
from hpcserve.wire.record import RECORD_NAME

SERVABLE = f"{bootstrap.CONTAINED}/servable"
"""A servable's directory, inside."""
RECORD = f"{bootstrap.CONTAINED}/record/{RECORD_NAME}"
"""The service record, inside."""


def guest(
    module: str,
    *arguments: str,
    image: str,
    python: str,
    packages: str,
    servable: Path | str | None = None,
    record_dir: Path | None = None,
    environment: Mapping[str, str],
) -> Inside:
    """A module of hpcserve, to be run in a container.

    Args:
        module: The module, which runs as a program.
        arguments: Its command-line arguments.
        image: The image's path.
        python: The image's interpreter.
        packages: The directory with what the image's Python lacks, or empty.
        servable: The servable's directory, if one is to be seen.
        record_dir: A directory with the service record and nothing else, if it is to be seen.
        environment: Variables of the program.
    """
    home = bootstrap.CONTAINED
    binds = [Bind(str(Path(bootstrap.__file__).resolve().parent), f"{home}/hpcserve")]
    if servable is not None:
        binds.append(Bind(str(servable), SERVABLE))
    if packages:
        binds.append(Bind(packages, bootstrap.PACKAGES))
    if record_dir is not None:
        binds.append(Bind(str(record_dir), str(Path(RECORD).parent)))
    argv = (python, f"{home}/hpcserve/bootstrap.py", module, *arguments)
    return Inside(image=image, argv=argv, binds=tuple(binds), environment=environment)
