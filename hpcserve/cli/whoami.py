"""``hpcserve whoami``: who the service takes the caller for, and how long the login lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.login import SERVICE
from hpcserve.cli.options import open_client, options

if TYPE_CHECKING:
    from hpcserve.wire.admin import Me


def command(
    ctx: typer.Context,
    *,
    service: SERVICE = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say who the service takes you for, and what you may do."""
    import msgspec

    from hpcserve.cli.lasting import lasts
    from hpcserve.wire.admin import Me, WhoAmI

    if service is not None:
        options(ctx).service = service
    with open_client(ctx) as client:
        me = client.call("whoami", WhoAmI(), Me)
        kept = client.login
    if as_json:
        told = msgspec.to_builtins(me)
        told["login"] = None if kept is None else {"left_s": round(kept.left_s, 1), "renews": kept.renews}
        typer.echo(msgspec.json.encode(told).decode())
        return
    lines = {
        "name": me.name,
        "identity": me.id,
        "domain": me.domain,
        "groups": _groups(me),
        "account": me.account,
        "key": me.key,
        "may": ", ".join(me.may) or "nothing",
        "login": "" if kept is None else lasts(kept),
    }
    for name, value in lines.items():
        if value:
            typer.echo(f"{name:9} {value}")


def _groups(me: Me) -> str:
    if not me.groups_count:
        return "not asked for: no rule here names one" if me.id else ""
    return "not known" if me.groups is None else ", ".join(me.groups)
