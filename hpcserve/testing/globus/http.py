"""What a service of the stand-in is asked, and what it answers. No sockets here."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import parse_qs


class Content(Protocol):
    """What can be read, as a file can."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most ``size``; all if it is negative. Empty at the end."""
        ...


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    ``path`` is decoded and without the query; names in ``headers`` are in lower case. ``content`` gives what was
    sent, once: a service that stores it reads it in pieces, any other takes ``body``.
    """

    method: str
    path: str
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Content = field(default_factory=io.BytesIO)

    @cached_property
    def body(self) -> bytes:
        """What was sent, whole."""
        return self.content.read()

    def one(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]

    def form(self) -> dict[str, str]:
        """The fields of a form, the last of each name.

        Raises:
            Refusal: It is no text.
        """
        try:
            fields = parse_qs(self.body.decode(), keep_blank_values=True)
        except UnicodeDecodeError as error:
            raise Refusal(400, {"error": "invalid_request", "error_description": str(error)}) from error
        return {name: values[-1] for name, values in fields.items()}

    def json(self) -> dict[str, Any]:
        """The JSON object that was sent.

        Raises:
            Refusal: It is none.
        """
        try:
            document = json.loads(self.body)
        except ValueError as error:
            raise Refusal(400, {"code": "BadRequest", "message": f"the body is no JSON: {error}"}) from error
        if not isinstance(document, dict):
            raise Refusal(400, {"code": "BadRequest", "message": "the body is no JSON object"})
        return document

    def bearer(self) -> str:
        """The access token; empty if there is none."""
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if kind.lower() == "bearer" else ""

    def basic(self) -> tuple[str, str]:
        """A client's id and secret; both empty if there are none."""
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return "", ""
        try:
            name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return name, secret


@dataclass(frozen=True)
class Response:
    """One answer.

    ``body``: a dict or list goes as JSON, a str as HTML, bytes as they are, and any other iterable gives pieces of
    bytes, of which a ``content-length`` among the headers says how many there are.
    """

    status: int = 200
    body: dict[str, Any] | list[Any] | str | bytes | Iterable[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A service does not do what it was asked. ``body`` is what it says, as in :class:`Response`."""

    def __init__(
        self, status: int, body: dict[str, Any] | list[Any] | str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status}: {body}")
        self.response = Response(status, body, headers or {})


class Service(Protocol):
    """Answers for the paths that begin with one of ``prefixes``; of several services the longest prefix decides."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """How the paths begin."""
        ...

    def answer(self, request: Request) -> Response:
        """Answer one request. It is called from many threads at a time.

        Raises:
            Refusal: An answer too.
        """
        ...
