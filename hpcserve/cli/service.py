"""``hpcserve service``: the daemons that the user has named, each with the key that was seen when it was added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.options import options

if TYPE_CHECKING:
    from hpcserve.client.services import Service

app = typer.Typer(help="Name the services to call, and pin their keys.", rich_markup_mode=None)

NAME = Annotated[str, typer.Argument(help="What to call it here.")]


@app.command("add")
def _add(
    name: NAME,
    record: Annotated[
        str,
        typer.Argument(
            help="Its record, service.json, or the directory that holds it; or ssh://[USER@]LOGIN[:PORT][/SITE]."
        ),
    ],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Take the key that it has now.")] = False,
) -> None:
    """Add a service; its key is pinned."""
    from msgspec.structs import replace as changed

    from hpcserve.client.services import load_services, save_services
    from hpcserve.errors import Conflict

    services = load_services()
    if name in services.services and not replace:
        raise Conflict(
            f"there is a service {name!r} already; replace it: hpcserve service add --replace {name} {record}"
        )
    service = _at(record)
    found = service.read()
    pinned = changed(service, public_key=found.public_key)
    save_services(changed(services, services={**services.services, name: pinned}))
    typer.echo(f"{name}: site {found.site} on {found.host}, key {found.public_key}")
    if services.default != name:
        typer.echo(f"call it with: hpcserve --service {name} …, or from now on: hpcserve service use {name}")


def _at(place: str) -> Service:
    """The service at this address, or with this record, as yet with any key."""
    from hpcserve import config
    from hpcserve.client.services import Service
    from hpcserve.client.ssh_address import is_ssh, refuse_other_schemes
    from hpcserve.wire.record import RECORD_NAME

    if is_ssh(place):
        return Service(address=place)
    refuse_other_schemes(place)
    record = config.expanded(place)
    return Service(record / RECORD_NAME if record.is_dir() else record)


@app.command("list")
def _list(ctx: typer.Context) -> None:
    """List the services; * marks the one in use."""
    from hpcserve import config
    from hpcserve.cli.terminal import show, table
    from hpcserve.client.services import load_services

    services = load_services()
    used = config.service_named(options(ctx).service) or services.default
    shown = table("", "name", "record or address", "key")
    for name, service in sorted(services.services.items()):
        shown.add_row("*" if name == used else "", name, service.place, service.public_key or "not pinned")
    shown.add_row("" if used else "*", "(the site's)", _of_site(), "not pinned")
    show(shown)


def _of_site() -> str:
    """The record of the site's own service, or why there is none."""
    from hpcserve.client.services import of_site
    from hpcserve.errors import ConfigError

    try:
        return of_site(None).place
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
