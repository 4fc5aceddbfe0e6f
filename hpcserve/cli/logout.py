"""``hpcserve logout``: end a login with Globus, here and there."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcserve.cli.login import SERVICE
from hpcserve.cli.options import options
from hpcserve.cli.terminal import note


def command(
    ctx: typer.Context,
    *,
    service: SERVICE = None,
    everywhere: Annotated[
        bool, typer.Option("--all", help="All logins; no service has to be there, and broken files go, too.")
    ] = False,
) -> None:
    """Revoke a login's tokens, and forget them."""
    from hpcserve.auth.tokens import forget_lent
    from hpcserve.client.login import log_out_everywhere, log_out_of
    from hpcserve.client.services import find_service
    from hpcserve.errors import ServiceUnavailable

    if everywhere:
        ended = log_out_everywhere()
    else:
        found = find_service(service or options(ctx).service)
        ended = log_out_of(found.public_key or found.read().public_key)
    for _, why in ended:
        if why is not None:
            raise ServiceUnavailable(
                f"{why.message}; the tokens are forgotten here, but may still be good for two days, and the one that "
                "renews them for longer: end it at https://app.globus.org/settings/consents"
            )
    many = len(ended)
    typer.echo("you are logged out" if many == 1 else f"{many} logins are ended" if many else "nobody was logged in")
    if forget_lent() and many:
        note(
            "where a result of yours was to travel with --keep-login, its service keeps a login until all have arrived"
        )
