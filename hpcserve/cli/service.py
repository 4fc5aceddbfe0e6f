"""``hpcserve service``: the daemons that the user has named, each with the key that was seen when it was added."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcserve.cli.options import options

app = typer.Typer(help="Name the services to call, and pin their keys.", rich_markup_mode=None)

NAME = Annotated[str, typer.Argument(help="What to call it here.")]


@app.command("add")
def _add(
    name: NAME,
    record: Annotated[Path, typer.Argument(help="Its record, service.json, or the directory that holds it.")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Take the key that it has now.")] = False,
) -> None:
    """Add a service; its key is pinned."""
    from msgspec.structs import replace as changed

    from hpcserve import config
    from hpcserve.client.services import Service, load_services, save_services
    from hpcserve.errors import Conflict
    from hpcserve.wire.record import RECORD_NAME

    place = config.expanded(str(record))
    place = place / RECORD_NAME if place.is_dir() else place
    services = load_services()
    if name in services.services and not replace:
        raise Conflict(
            f"there is a service {name!r} already; replace it: hpcserve service add --replace {name} {record}"
        )
    found = Service(place).read()
    pinned = Service(place, found.public_key)
    save_services(changed(services, services={**services.services, name: pinned}))
    typer.echo(f"{name}: site {found.site} on {found.host}, key {found.public_key}")
    if services.default != name:
        typer.echo(f"call it with: hpcserve --service {name} …, or from now on: hpcserve service use {name}")


@app.command("list")
def _list(ctx: typer.Context) -> None:
    """List the services; * marks the one in use."""
    from hpcserve import config
    from hpcserve.cli.terminal import show, table
    from hpcserve.client.services import load_services

    services = load_services()
    used = config.service_named(options(ctx).service) or services.default
    shown = table("", "name", "record", "key")
    for name, service in sorted(services.services.items()):
        shown.add_row("*" if name == used else "", name, str(service.record), service.public_key or "not pinned")
    shown.add_row("" if used else "*", "(the site's)", _of_site(), "not pinned")
    show(shown)


def _of_site() -> str:
    """The record of the site's own service, or why there is none."""
    from hpcserve.client.services import of_site
    from hpcserve.errors import ConfigError

    try:
        return str(of_site(None).record)
    except ConfigError as error:
        return f"none: {error}"


@app.command("use")
def _use(name: NAME) -> None:
    """Call this service from now on, unless --service or HPCSERVE_SERVICE names another."""
    from msgspec.structs import replace

    from hpcserve.client.services import load_services, save_services

    services = load_services()
    services.chosen(name)
    save_services(replace(services, default=name))
    typer.echo(f"{name} is in use")


@app.command("remove")
def _remove(name: NAME) -> None:
    """Forget a service."""
    from msgspec.structs import replace

    from hpcserve.client.services import load_services, save_services

    services = load_services()
    services.chosen(name)
    left = {known: service for known, service in services.services.items() if known != name}
    default = None if services.default == name else services.default
    save_services(replace(services, services=left, default=default))
    typer.echo(f"{name} is forgotten" + ("" if default == services.default else "; in use is the site's own service"))
