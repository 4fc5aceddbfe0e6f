"""``hpcserve run``: one call of an endpoint, from files to files."""

from __future__ import annotations

import contextlib
import json
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcserve.cli.options import open_client, seconds
from hpcserve.cli.terminal import note

if TYPE_CHECKING:
    from hpcserve.client import Client, Outputs
    from hpcserve.client.submitting import Submitter
    from hpcserve.servable.manifest import MethodSpec


class Reply(StrEnum):
    """How a result is to come."""

    auto = "auto"
    inline = "inline"
    staged = "staged"


SHOW_S = 1.0
LOOK_S = 10.0
"""So long is waited for what the service says of the place where a result is to go."""
DESCRIBE_S = 5.0
"""So long a call whose inputs need no declaration waits for it, and any one where the service says to try again."""


def command(
    ctx: typer.Context,
    *,
    target: Annotated[str, typer.Argument(metavar="ENDPOINT[.METHOD]", help="What to call.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help="x.npy, x.npz, x.json, - (JSON or .npy from standard input), or a file of the site: file:/PATH#/NAME.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="y.npy, y.npz, y.json, y.h5 or - (JSON).")
    ] = None,
    reply: Annotated[
        Reply | None,
        typer.Option(help="How the result comes: in its message, or in a file of the site. [default: auto]"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Where Globus brings the result: globus://COLLECTION/DIRECTORY/."),
    ] = None,
    keep_login: Annotated[
        bool, typer.Option("--keep-login", help="With --to: let the service keep a login of yours until it is there.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --to: submit it without asking, if Globus takes it from you alone.")
    ] = False,
    parameters: Annotated[
        list[str] | None, typer.Option("--param", metavar="K=V", help="A parameter; V is JSON, else text.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="S", parser=seconds, help="The deadline in seconds.")] = 60.0,
) -> None:
    """Call an endpoint and show, or write, what it answers."""
    from hpcserve.cli.inputs import from_json, needs_declaration, read_inputs
    from hpcserve.cli.lasting import warn_if_it_ends
    from hpcserve.cli.outputs import (
        check_items_output,
        check_output,
        is_hdf5,
        show,
        show_staged,
        write,
        write_hdf5,
        write_items,
    )

    if output is not None:
        check_output(output)
    if to is not None and output is not None:
        raise typer.BadParameter("with --to the result goes to a collection, and to no file", param_hint="--output")
    if keep_login and to is None:
        raise typer.BadParameter(
            "a login is kept for a result that is brought somewhere: say --to", param_hint="--keep-login"
        )
    if yes and to is None:
        raise typer.BadParameter("it agrees to what goes to --to, which is not given", param_hint="--yes")
    values = _parameters(parameters or [])
    with open_client(ctx) as client:
        given = read_inputs(inputs or [], most_bytes=client.session_bytes)
        needed = needs_declaration(given)
        method = declared(client, target) if needed else _declared_if_told(client, target)
        if needed and method is not None:
            given = from_json(given, method)
        warn_if_it_ends(client)
        if method is not None and method.stream:
            if output is not None:
                check_items_output(output)
            with client.stream(target, given, parameters=values, timeout_s=timeout) as items:
                write_items(items, output)
            return
        if to is not None:
            _send(
                ctx,
                client,
                target,
                given,
                parameters=values,
                timeout_s=timeout,
                to=to,
                keep_login=keep_login,
                yes=yes,
            )
            return
        wanted = reply or (Reply.staged if is_hdf5(output) else Reply.auto)
        answer = _infer(ctx, client, target, given, parameters=values, timeout_s=timeout, reply=wanted.value)
        if output is None and wanted is Reply.staged:
            show_staged(answer)
        elif output is None:
            show(answer)
        elif is_hdf5(output):
            write_hdf5(answer, output)
        else:
            write(answer if answer.staged is None else answer.staged.load(), output)


def _infer(
    ctx: typer.Context,
    client: Client,
    target: str,
    given: Any,
    *,
    parameters: dict[str, Any],
    timeout_s: float,
    reply: str,
) -> Outputs:
    """The outputs; the person is asked for a login that the way of a large result may need."""
    from hpcserve.errors import LoginRequired

    future = client.submit(target, given, parameters=parameters, timeout_s=timeout_s, reply=reply)
    try:
        return future.result()
    except LoginRequired as wanted:
        if not future.can_go_on:
            raise
        from hpcserve.cli.consent import with_logins

        return with_logins(ctx, wanted, future.go_on)


def _send(
    ctx: typer.Context,
    client: Client,
    target: str,
    given: Any,
    *,
    parameters: dict[str, Any],
    timeout_s: float,
    to: str,
    keep_login: bool,
    yes: bool,
) -> None:
    """Calls, and says in one line on standard error how far the result is, until it is there."""
    from concurrent.futures import wait

    from hpcserve.cli.consent import submitter, with_logins
    from hpcserve.cli.on_the_way import OnTheWay
    from hpcserve.errors import Conflict, LoginRequired

    _check_destination(client, to)
    future = client.submit(target, given, parameters=parameters, timeout_s=timeout_s, to=to, keep_login=keep_login)
    way = OnTheWay(note)

    def submit(by_owner: Submitter) -> bool:
        if way.seen is None or way.seen.state != "offered":
            return False
        try:
            by_owner.submit(way.seen.id, to)
        except Conflict as error:  # it is looked on until it is known what becomes of it
            note(error.message)
        return True

    def go_on() -> Outputs:
        way.waits_for_login = False
        try:
            return future.go_on(way.show)
        except LoginRequired:
            way.waits_for_login = True
            raise

    try:
        while wait([future], SHOW_S).not_done:
            way.show(future.transfer)
        try:
            arrived = future.result().sent
        except LoginRequired as wanted:
            if future.transfer is None:
                raise
            way.show(future.transfer)
            way.waits_for_login = True
            with submitter(client, yes=yes) as by_owner:
                arrived = with_logins(ctx, wanted, go_on, lambda: submit(by_owner)).sent
    except KeyboardInterrupt:
        way.part()
        raise
    transfer = None if arrived is None else arrived.transfer
    way.show(transfer)
    typer.echo(json.dumps({"sent": None if transfer is None else transfer.to}))


def _check_destination(client: Client, to: str) -> None:
    """Whether the result can come there, before it is computed; where nobody can tell now, it is called all the same.

    Raises:
        HpcserveError: It cannot.
    """
    from hpcserve.errors import DeadlineExceeded, ServiceUnavailable
    from hpcserve.wire.admin import AskDestination, Destination

    with contextlib.suppress(ServiceUnavailable, DeadlineExceeded):
        client.call("destination", AskDestination(to=to), Destination, timeout_s=LOOK_S)


def _declared_if_told(client: Client, target: str) -> MethodSpec | None:
    """What the method declares; None where the controller does not answer, without which a request can be answered."""
    from hpcserve.errors import ServiceUnavailable

    try:
        return declared(client, target, timeout_s=DESCRIBE_S)
    except ServiceUnavailable as error:
        note(f"{error}; {target} is called all the same, as a method that answers once")
        return None


def declared(client: Client, target: str, *, timeout_s: float = 30.0) -> MethodSpec:
    """What the method of ``target`` declares.

    Raises:
        ServiceUnavailable: The controller does not answer.
        UnknownEndpoint: There is no such endpoint.
        UnknownMethod: The servable has no such method, or several and none is named.
    """
    import msgspec

    from hpcserve.client.pauses import Patience
    from hpcserve.errors import ServiceUnavailable, UnknownMethod
    from hpcserve.servable.manifest import default_method, from_json, method_named
    from hpcserve.wire.admin import Describe, Described

    endpoint, _, method = target.partition(".")
    patience = Patience(DESCRIBE_S)
    while True:
        try:
            described = client.call("describe", Describe(endpoint=endpoint), Described, timeout_s=timeout_s)
            break
        except ServiceUnavailable as error:
            time.sleep(patience.pause_s(error))
    manifest = from_json(msgspec.json.encode(described.manifest))
    method = method or default_method(manifest)
    if not method:
        named = f"{endpoint}.METHOD: {', '.join(sorted(manifest.methods))}"
        raise UnknownMethod(f"endpoint {endpoint!r} has several methods; name one as {named}")
    return method_named(manifest, method)


def _parameters(texts: list[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r}: expected K=V", param_hint="--param")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
