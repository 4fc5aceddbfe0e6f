"""``hpcserve share``: says who sees a servable, and so may look at it, call it and deploy it."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcserve.cli.options import open_client

VISIBLE_TO = typer.Option(
    metavar="WHO", help="Who sees the servable: public, private, user:NAME, group:UUID, id:UUID or domain:NAME."
)


def command(
    ctx: typer.Context,
    *,
    servable: Annotated[str, typer.Argument(metavar="SERVABLE", help="Its name: this holds for all versions.")],
    visible_to: Annotated[list[str], VISIBLE_TO],
) -> None:
    """Say who sees a servable, all its versions; whoever was said before does not any more."""
    from hpcserve.wire.admin import Share, Shared

    with open_client(ctx) as client:
        done = client.call("share", Share(servable=servable, visible_to=tuple(visible_to)), Shared)
    typer.echo(f"{done.servable} is visible to {sharing(done.visible_to)}")


def sharing(words: tuple[str, ...]) -> str:
    """Who sees a servable, in words."""
    if words == ("public",):
        return "all who may use the service"
    if words == ("private",):
        return "nobody but its owner"
    return f"its owner and {', '.join(words)}"
