"""The command line, put together: which commands there are, and the options that all of them share."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hpcserve import __version__
from hpcserve.cli import (
    connect,
    container,
    demo,
    deploy,
    doctor,
    down,
    login,
    logout,
    logs,
    publish,
    results,
    run,
    service,
    share,
    site,
    status,
    transfers,
    undeploy,
    up,
    whoami,
)
from hpcserve.cli.exits import EPILOG
from hpcserve.cli.options import options


class Commands(TyperGroup):
    """Commands of which an unknown one is told as every other unknown name is."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names, or the error that says which was meant."""
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            from hpcserve.core.spelling import nearest

            ctx.fail(f"no such command {name!r}{nearest(name, self.commands)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="hpcserve",
    cls=Commands,
    help="Serves machine-learning models from a supercomputer, through its batch scheduler.",
    epilog=EPILOG,
    add_completion=False,
    rich_markup_mode=None,  # with it, --help alone would import rich: 0.1 s
    pretty_exceptions_enable=False,
)

CALLING = (status, publish, share, deploy, undeploy, run, results, transfers, logs, login, logout, whoami)
for _verb in (up, down, *CALLING, doctor, connect, demo):
    app.command(_verb.__name__.rpartition(".")[2])(_verb.command)
app.add_typer(service.app, name="service", cls=Commands)
app.add_typer(site.app, name="site", cls=Commands)
app.add_typer(container.app, name="container", cls=Commands)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 (Typer calls it so)
    if wanted:
        typer.echo(f"hpcserve {__version__}")
        raise typer.Exit


@app.callback()
def _shared(
    ctx: typer.Context,
    *,
    name: Annotated[
        str | None, typer.Option("--service", metavar="NAME", help="The service to call: see hpcserve service list.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    shared = options(ctx)
    shared.service = name
    shared.debug = debug


def command() -> Any:
    """The whole command line as an object of Typer's parser."""
    return typer.main.get_command(app)
