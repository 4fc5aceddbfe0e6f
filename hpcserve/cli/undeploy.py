"""``hpcserve undeploy``: ends the serving at an endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcserve.cli.options import open_client


def command(ctx: typer.Context, endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT")]) -> None:
    """Stop serving at an endpoint; requests that run are finished."""
    from hpcserve.wire.admin import Undeploy, Undeployed

    with open_client(ctx) as client:
        done = client.call("undeploy", Undeploy(endpoint=endpoint), Undeployed)
    typer.echo(f"{done.endpoint} is not served any more")
