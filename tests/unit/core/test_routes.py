"""What a caller is told who names no method."""

from __future__ import annotations

import pytest

from hpcserve.core.routes import Deployment, RoutingTable
from hpcserve.errors import UnknownMethod
from hpcserve.types import DeploymentName, EndpointName

NAME = DeploymentName("echo@1")


def table(*methods: str, default: str = "") -> RoutingTable:
    deployment = Deployment(NAME, dict.fromkeys(methods, True), default, ())
    return RoutingTable({EndpointName("echo"): NAME}, {NAME: deployment})


def test_the_methods_are_told_as_they_are_called_the_likeliest_first() -> None:
    with pytest.raises(UnknownMethod) as told:
        table("blob", "value", "echo").route("echo", "")
    assert told.value.message == (
        "endpoint 'echo' has several methods; name one as ENDPOINT.METHOD: echo.echo, echo.blob, echo.value"
    )


def test_of_many_methods_the_first_are_told() -> None:
    with pytest.raises(UnknownMethod, match=r"echo\.m00, .*, echo\.m09, …$"):
        table(*(f"m{number:02}" for number in range(50))).route("echo", "")


def test_a_default_method_needs_no_name() -> None:
    assert table("blob", "run", default="run").route("echo", "") == (NAME, True)
