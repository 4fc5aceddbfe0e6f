"""``hpcserve connect``: leads a client that has come by ssh to the daemon. The client starts it; people do not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.exits import OK
from hpcserve.cli.options import options

if TYPE_CHECKING:
    from hpcserve.client.services import Service
    from hpcserve.wire.record import ServiceRecord


def command(
    ctx: typer.Context,
    place: Annotated[
        str,
        typer.Argument(
            help="A site's name; or the path of a site file, of a service record, or of the directory that holds it. "
            "Default: the service that commands here call."
        ),
    ] = "",
) -> int:
    """Lead a client to the daemon, by ssh: hpcserve service add NAME ssh://USER@THIS-HOST runs this."""
    from hpcserve.cli.far_side import STDIN, FarSide
    from hpcserve.errors import ConfigError

    if os.isatty(STDIN):
        raise ConfigError("this is run by ssh for a client; on the client's machine: hpcserve service add NAME ssh://…")

    def find() -> ServiceRecord:
        return _service(place, options(ctx).service).read()

    FarSide(find).run()
    return OK


def _service(place: str, named: str | None) -> Service:
    """The service that is meant.

    Raises:
        ConfigError: There is no such site, or what is meant is itself reached by ssh.
    """
    from hpcserve import config
    from hpcserve.client.services import Service, find_service, of_site
    from hpcserve.errors import ConfigError
    from hpcserve.wire.record import RECORD_NAME

    if not place:
        service = find_service(named)
        if service.record is None:
            raise ConfigError(
                f"the service in use here is {service.place}; name a site instead, such as ssh://HOST/SITE"
            )
        return service
    if "/" not in place or place.endswith(".toml"):
        return of_site(place)
    path = config.expanded(place)
    return Service(path / RECORD_NAME if path.is_dir() else path)
