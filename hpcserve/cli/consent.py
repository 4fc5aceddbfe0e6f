"""A login that a transfer waits for, at the terminal."""

from __future__ import annotations

import typer

from hpcserve.cli.options import options
from hpcserve.errors import LoginRequired


def log_in_for(ctx: typer.Context, wanted: LoginRequired) -> None:
    """Has the person log in as a transfer needs it; open clients of theirs are in by that login, too.

    A program logs in by its secret, which is its consent.

    Raises:
        LoginRequired: There is no terminal and no secret, or the service did not say which login it needs.
        HpcserveError: As for ``hpcserve login``.
    """
    from hpcserve.cli.asking import terminal
    from hpcserve.client.arrival import Arrival

    asks = terminal()
    with Arrival(options(ctx).service) as arrival:
        if (asks is None and not arrival.is_program) or not wanted.detail:
            raise wanted
        arrival.try_kept()
        arrival.log_in(wanted, asks, renews=True, same_owner=False)
