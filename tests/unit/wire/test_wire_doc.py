"""The wire's reference says what the program does: every kind, element, code, limit and byte of its example."""

from __future__ import annotations

import hashlib
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any, Union

import msgspec
import numpy as np
import pytest

from hpcserve.cli import far_side
from hpcserve.client import tunnel as near
from hpcserve.core.exchange import MAX_GAPS, MAX_UNSETTLED
from hpcserve.errors import BY_CODE, UnknownEndpoint
from hpcserve.types import Counter, SessionId
from hpcserve.wire import admin, agents, messages, record, results, tunnel
from hpcserve.wire.dtype_names import BYTES, JSON, MAX_AXES, ML_DTYPES, NAMES, REFERENCE
from hpcserve.wire.dtypes import DTYPES
from hpcserve.wire.frames import ENCLOSED_BYTES, MAX_HEADER_BYTES, MAX_TENSORS, enclose, encode, error_to_wire
from hpcserve.wire.tensor import pack

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "wire.md").read_text(encoding="utf-8")
RAW_TYPES = {"tensors": "[TensorSpec]", "parameters": "map", "body": "map", "items": "[Item]"}
VERBS = {
    "publish": (admin.Publish, admin.Published),
    "share": (admin.Share, admin.Shared),
    "deploy": (admin.Deploy, admin.Deployed),
    "undeploy": (admin.Undeploy, admin.Undeployed),
    "status": (admin.AskStatus, admin.Status),
    "whoami": (admin.WhoAmI, admin.Me),
    "describe": (admin.Describe, admin.Described),
    "logs": (admin.AskLogs, admin.Logs),
    "down": (admin.Down, admin.GoingDown),
    "delivered": (admin.Delivered, admin.Noted),
    "deliver": (admin.Deliver, admin.TransferList),
    "destination": (admin.AskDestination, admin.Destination),
    "transfers": (admin.AskTransfers, admin.TransferList),
    "results": (results.AskResults, results.ResultList),
    "discard": (results.Discard, results.Discarded),
    "https": (admin.AskHttps, admin.ByHttps),
    "submission": (admin.AskSubmission, admin.Submission),
    "submitted": (admin.Submitted, admin.TransferList),
    "not-submitted": (admin.NotSubmitted, admin.TransferList),
    "cancel-transfer": (admin.CancelTransfer, admin.TransferList),
}


def section(heading: str, level: int = 3) -> str:
    """What stands between a heading and the next of its level or above."""
    pattern = rf"^#{{{level}}} {re.escape(heading)}\n(.*?)(?=^#{{2,{level}}} |\Z)"
    found = re.findall(pattern, PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{len(found)} sections are called {heading}"
    return str(found[0])


def rows(text: str) -> list[list[str]]:
    """The cells of the table's body rows."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def structs(module: types.ModuleType, base: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, base) and kind is not base and kind.__module__ == module.__name__
    ]


def spelled(kind: Any, field: str) -> str:
    """A field's type as the page writes it."""
    if isinstance(kind, typing.NewType):
        return spelled(kind.__supertype__, field)
    if kind is msgspec.Raw:
        return RAW_TYPES[field]
    if kind is Any:
        return "any"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("nil" if one is type(None) else spelled(one, field) for one in arguments)
    if origin is typing.Literal:
        return " or ".join(sorted({type(one).__name__ for one in arguments}))
    if origin is dict:
        return f"map of {spelled(arguments[0], field)} to {spelled(arguments[1], field)}"
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"[{spelled(arguments[0], field)}]"
    if origin is tuple:
        return f"({', '.join(spelled(one, field) for one in arguments)})"
    return str(kind.__name__)


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """A field's default as the page writes it: as JSON, and nil for null."""
    value = field.default
    if value is msgspec.NODEFAULT:
        return ""
    if isinstance(value, msgspec.Raw):
        value = msgspec.msgpack.decode(value)
    return "nil" if value is None else msgspec.json.encode(value).decode()


def table_of(kind: type[msgspec.Struct]) -> list[list[str]]:
    """The first cells of the rows that a struct's table must have."""
    hints = typing.get_type_hints(kind)
    table = [
        [f"`{field.name}`", spelled(hints[field.name], field.name), default_of(field)]
        for field in msgspec.structs.fields(kind)
    ]
    if not issubclass(kind, messages.Message):
        return table
    first = 0 if kind.__struct_config__.tag is None else 1
    return [[str(number), *row] for number, row in enumerate(table, first)]


@pytest.mark.parametrize(
    "kind",
    [
        *structs(messages, messages.Message),
        *structs(agents, messages.Message),
        *structs(admin, admin.Admin),
        *structs(results, admin.Admin),
        record.ServiceRecord,
        tunnel.Greeting,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_struct_has_its_table(kind: type[msgspec.Struct]) -> None:
    tag = kind.__struct_config__.tag
    expected = table_of(kind)
    found = rows(section(kind.__name__ if tag is None else f"`{tag}`"))
    assert [row[: len(expected[0]) if expected else 0] for row in found] == expected


def test_every_error_has_its_row() -> None:
    expected = [
        [f"`{code}`", str(kind.http_status), "yes" if kind.retryable else "no"] for code, kind in BY_CODE.items()
    ]
    assert sorted(row[:3] for row in rows(section("Errors", 2))) == sorted(expected)


def test_every_verb_has_its_row() -> None:
    expected = [[f"`{verb}`", asked.__name__, given.__name__] for verb, (asked, given) in VERBS.items()]
    table = section("Administrative calls", 2).split("###")[0]
    assert rows(table) == expected
    for verb, (asked, _) in VERBS.items():
        assert (asked.__doc__ or "").startswith(f"``{verb}``")


def test_every_dtype_has_its_size() -> None:
    sizes = {name: str(dtype.itemsize) for name, dtype in DTYPES.items()}
    sizes |= {name: str(size_bytes) for name, size_bytes in ML_DTYPES.items()} | {BYTES: "any", JSON: "any"}
    assert set(sizes) == NAMES
    sizes[REFERENCE] = "any"
    found: dict[str, str] = {}
    for names, listed, _ in rows(section("Tensors", 2)):
        one_each = names.replace("`", "").split()
        found |= dict(zip(one_each, listed.split() if " " in listed else [listed] * len(one_each), strict=True))
    assert found == sizes


def test_the_limits_are_the_programs() -> None:
    limits = {what: most for what, most, _ in rows(section("Limits", 2))}
    assert limits["header"] == f"{MAX_HEADER_BYTES} bytes"
    assert f"tensors that have {ENCLOSED_BYTES} bytes or fewer together" in PAGE
    assert limits["tensors in one message"] == str(MAX_TENSORS)
    assert limits["axes of one tensor"] == str(MAX_AXES)
    assert limits["unsettled requests of one session"] == str(MAX_UNSETTLED)
    assert limits["gaps among the ids acknowledged above the floor"] == str(MAX_GAPS)


def test_the_version_is_the_programs() -> None:
    assert f"**wire version {messages.WIRE_VERSIONS[0]}**" in PAGE


def test_the_tunnel_is_the_programs() -> None:
    whole = section("The tunnel", 2)
    assert f"**tunnel version {tunnel.TUNNEL_VERSIONS[0]}**" in whole
    assert f"`{tunnel.MARKER.decode().strip()}`" in whole
    assert f"`{tunnel.ANSWER.decode().strip()}`" in whole
    frames = section("Frames")
    assert [row[:2] for row in rows(frames)] == [[str(kind.value), kind.name] for kind in tunnel.Kind]
    assert f"of {tunnel.MAX_PAYLOAD_BYTES} bytes at most" in frames
    assert tunnel.HEADER.format == ">BII"
    assert f"every {near.PING_S:g} s" in frames
    assert f"nothing came for {far_side.SILENT_S:g} s" in frames
    assert f"ends ssh after {near.SILENT_S:g} s" in frames


def example(name: str) -> bytes:
    (block,) = re.findall(rf"<!-- example: {name} -->\n```hex\n(.*?)```", PAGE, re.DOTALL)
    return bytes.fromhex(block)


SESSION = SessionId(hashlib.blake2b(bytes(range(32)) + bytes(range(0xA0, 0xB0)), digest_size=16).digest())
X_SPECS, X_FRAMES = pack({"x": np.array([[0, 0.5, 1, -2]], np.float32)})
Y_SPECS, Y_FRAMES = pack({"label": np.array([7], np.int64)})
ERROR = error_to_wire(UnknownEndpoint("no endpoint is called 'digit'; did you mean 'digits'?"))
EXAMPLES = {
    "session": bytes(SESSION),
    "request": encode(
        messages.Request(Counter(1), "digits", "predict", X_SPECS, remaining_ms=5000, enclosed=enclose(X_FRAMES))
    ),
    "request tensor": X_FRAMES[0],
    "result": encode(
        messages.Result(
            SESSION,
            Counter(1),
            Y_SPECS,
            replica="r-1",
            version="digits@5f3a",
            run_us=412,
            credit_requests=16,
            credit_bytes=64 << 20,
            enclosed=enclose(Y_FRAMES),
        )
    ),
    "ack": encode(messages.Ack(2)),
    "error": encode(messages.Result(SESSION, Counter(1), error=ERROR)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_is_what_the_program_sends(name: str) -> None:
    assert example(name).hex(" ") == EXAMPLES[name].hex(" ")


def test_the_example_has_no_other_blocks() -> None:
    assert re.findall(r"<!-- example: (.*?) -->", PAGE) == list(EXAMPLES)


def test_the_short_form_of_the_example_means_the_same() -> None:
    whole = msgspec.msgpack.decode(example("request"))
    meant = msgspec.msgpack.decode(example("request"), type=messages.Request)
    assert meant.enclosed == (example("request tensor"),)
    short = msgspec.msgpack.decode(encode(whole[:7]), type=messages.Request)
    assert short == msgspec.structs.replace(meant, enclosed=())
