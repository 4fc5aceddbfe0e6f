"""``hpcserve publish``: hands a servable's directory to the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcserve.cli.options import open_client, options
from hpcserve.cli.share import VISIBLE_TO, sharing
from hpcserve.cli.terminal import note, waiting

TIMEOUT_S = 600.0
"""Its files are copied and its code is looked at: that may import torch from a cold disk."""


def command(
    ctx: typer.Context,
    *,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The servable's directory, with servable.toml.")],
    alias: Annotated[list[str] | None, typer.Option(metavar="A", help="An alias to set to this version.")] = None,
    visible_to: Annotated[list[str] | None, VISIBLE_TO] = None,
) -> None:
    """Publish the servable in DIR as a new version."""
    from hpcserve import config
    from hpcserve.client.services import find_service
    from hpcserve.errors import ConfigError
    from hpcserve.wire.admin import Publish, Published

    service = find_service(options(ctx).service)
    if service.record is None and not directory.is_absolute():
        raise ConfigError(
            f"{directory}: the daemon reads the directory where it runs, behind {service.place}: give the path there, "
            "from the root on"
        )
    place = config.expanded(str(directory))
    with open_client(ctx) as client, waiting(f"publishing {directory}"):
        arguments = Publish(path=str(place), aliases=tuple(alias or ()), visible_to=tuple(visible_to or ()))
        done = client.call("publish", arguments, Published, timeout_s=TIMEOUT_S)
    what = "published" if done.new else "there already:"
    typer.echo(f"{what} {done.name}@{done.version[:12]} ({', '.join(done.methods)})")
    if done.visible_to != ("public",):
        note(f"visible to {sharing(done.visible_to)}")
