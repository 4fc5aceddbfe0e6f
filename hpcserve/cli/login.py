"""``hpcserve login``: log in with Globus at a service that wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.options import options

if TYPE_CHECKING:
    from hpcserve.auth.tokens import Kept

SERVICE = Annotated[
    str | None, typer.Argument(metavar="SERVICE", help="Its name, or ssh://LOGIN; default: the one in use.")
]


def command(
    ctx: typer.Context,
    *,
    service: SERVICE = None,
    once: Annotated[bool, typer.Option("--once", help="The login ends by itself, in two days at most.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Log in anew, even if you are logged in.")] = False,
    same_owner: Annotated[
        bool, typer.Option("--same-owner", help="Let it have the login that another service has.")
    ] = False,
) -> None:
    """Log in with Globus, for the service's use alone."""
    from hpcserve.cli.asking import terminal
    from hpcserve.client.arrival import Arrival
    from hpcserve.core.demands import demand_of
    from hpcserve.errors import LoginRequired

    asks = terminal()
    with Arrival(service or options(ctx).service) as arrival:
        told = None if force else arrival.try_kept()
        if told is None:
            told = arrival.demanded()
        elif not isinstance(told, LoginRequired):
            typer.echo(f"you are {told.identity} at {arrival.place}{_until(arrival.kept())}")
            return
        if not isinstance(told, LoginRequired):
            typer.echo(f"{arrival.place} wants no login: it knows you as {told.identity}, by your key")
            return
        demand_of(told)
        if asks is None and not arrival.is_program:
            raise LoginRequired(
                f"{told.message.partition(';')[0]}; a login takes a terminal, or, for programs, HPCSERVE_CLIENT_ID and "
                "HPCSERVE_CLIENT_SECRET",
                detail=told.detail,
            )
        welcome = arrival.log_in(told, asks, renews=not once, same_owner=same_owner)
        typer.echo(f"you are {welcome.identity} at {arrival.place}{_until(arrival.kept())}")


def _until(kept: Kept | None) -> str:
    from hpcserve.cli.lasting import lasts

    return "" if kept is None else f"; the login {lasts(kept)}"
