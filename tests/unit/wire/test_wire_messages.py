"""Every struct goes to bytes and back; whatever else arrives as a header raises ProtocolError and no more."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Union

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcserve.errors import ProtocolError
from hpcserve.wire import admin, agents, frames, hub, messages
from hpcserve.wire.frames import MAX_HEADER_BYTES, decoder, encode, from_raw, raw
from hpcserve.wire.messages import Message

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PACKABLE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT | st.binary(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SIMPLE = {
    str: TEXT,
    bytes: st.binary(max_size=40),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    type(None): st.none(),
    msgspec.Raw: PACKABLE.map(lambda value: msgspec.Raw(msgspec.msgpack.encode(value))),
    Any: PACKABLE,
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type as the wire's structs annotate them."""
    if kind in SIMPLE:
        return SIMPLE[kind]
    if isinstance(kind, typing.NewType):
        return values(kind.__supertype__)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    assert issubclass(kind, msgspec.Struct), kind
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values(hints[name]) for name in kind.__struct_fields__})


def structs(module: types.ModuleType, base: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, base) and kind is not base and kind.__module__ == module.__name__
    ]


ARRAYS = [*structs(messages, Message), *structs(agents, Message), *structs(hub, Message)]
MAPS = structs(admin, admin.Admin)
HEADERS = [kind for kind in ARRAYS if kind.__struct_config__.tag is not None]
RECEIVERS = [value for name, value in vars(frames).items() if name.startswith("decode_")]
UNIONS = [
    getattr(messages, name) for name in ("FromAnyone", "FromAdmission", "FromClient", "ToClient", "ToReplica")
] + [agents.FromPilot, agents.ToAgent, hub.ToBroker, hub.ToController, hub.ToAdmission]
FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])


def as_list(message: Message) -> list[Any]:
    listed = msgspec.msgpack.decode(encode(message))
    assert isinstance(listed, list)
    return listed


@pytest.mark.parametrize("kind", [*ARRAYS, *MAPS], ids=lambda kind: kind.__name__)
@FEW
@given(st.data())
def test_every_struct_comes_back(kind: type, data: st.DataObject) -> None:
    message = data.draw(values(kind))
    header = encode(message)
    assert decoder(kind)(header) == message
    assert decoder(kind)(memoryview(header)) == message


@pytest.mark.parametrize("union", UNIONS)
@FEW
@given(st.data())
def test_every_kind_is_told_from_the_others(union: Any, data: st.DataObject) -> None:
    message = data.draw(values(union))
    back = decoder(union)(encode(message))
    assert type(back) is type(message)
    assert back == message


def test_every_tagged_struct_belongs_to_a_receiver() -> None:
    received = {kind for union in UNIONS for kind in typing.get_args(union)}
    assert received == set(HEADERS)
    tags = [kind.__struct_config__.tag for kind in HEADERS]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("kind", HEADERS, ids=lambda kind: kind.__name__)
@FEW
@given(st.data())
def test_every_truncation_is_refused(kind: type, data: st.DataObject) -> None:
    header = encode(data.draw(values(kind)))
    for length in range(len(header)):
        with pytest.raises(ProtocolError):
            decoder(kind)(header[:length])
    with pytest.raises(ProtocolError):
        decoder(kind)(header + b"\0")


@pytest.mark.parametrize("kind", ARRAYS, ids=lambda kind: kind.__name__)
@FEW
@given(st.data())
def test_elements_of_a_later_version_are_ignored(kind: type, data: st.DataObject) -> None:
    message = data.draw(values(kind))
    later = [*as_list(message), *data.draw(st.lists(PACKABLE, min_size=1, max_size=3))]
    assert decoder(kind)(encode(later)) == message


@pytest.mark.parametrize("kind", ARRAYS, ids=lambda kind: kind.__name__)
@FEW
@given(st.data())
def test_missing_last_elements_have_their_defaults(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    message = data.draw(values(kind))
    fields, defaults = kind.__struct_fields__, kind.__struct_defaults__
    required = len(fields) - len(defaults)
    whole = as_list(message)
    head = len(whole) - len(fields)
    for kept in range(len(fields) + 1):
        shorter = encode(whole[: head + kept])
        if kept < required:
            with pytest.raises(ProtocolError):
                decoder(kind)(shorter)
            continue
        expected = {name: getattr(message, name) for name in fields[:kept]}
        assert decoder(kind)(shorter) == kind(**expected)


def test_elements_inside_elements_may_be_new_too() -> None:
    later = ["refused", ["overloaded", "full", None, 5, None, "since 1.9"], {"since": 2}]
    refused = frames.decode_to_client(encode(later))
    assert refused == messages.Refused(messages.ErrorInfo("overloaded", "full", None, 5))


@pytest.mark.parametrize("kind", MAPS, ids=lambda kind: kind.__name__)
def test_administrative_calls_refuse_unknown_fields(kind: type) -> None:
    with pytest.raises(ProtocolError, match=f"malformed {kind.__name__}"):
        from_raw(raw({"no such field": 1}), kind)


@pytest.mark.parametrize("receive", RECEIVERS)
@given(header=st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_protocol_errors(receive: Callable[[bytes], Any], header: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed header"):
        receive(header)


@pytest.mark.parametrize("receive", RECEIVERS)
@settings(FEW, max_examples=50)
@given(
    tag=st.sampled_from([kind.__struct_config__.tag for kind in HEADERS]) | PACKABLE,
    rest=st.lists(PACKABLE, max_size=14),
)
def test_plausible_headers_raise_nothing_but_protocol_errors(
    receive: Callable[[bytes], Any], tag: Any, rest: list[Any]
) -> None:
    try:
        message = receive(encode([tag, *rest]))
    except ProtocolError:
        return
    assert message.__struct_config__.tag == tag


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff\xa3ack",
        b"\xdb\xff\xff\xff\xffack",
        b"\x93\xa3ack\x01\xdd\xff\xff\xff\xff",
        b"\x93\xa3ack\x01\xc6\xff\xff\xff\xff",
        b"\x94\xa4call\x01\xa1v\xdf\xff\xff\xff\xff",
        b"\x95\xa7request\x01\xa1e\xa1m\xdd\xff\xff\xff\xff",
        b"\x95\xa7request\x01\xa1e\xa1m" + b"\x91" * 500_000 + b"\x90",
        b"\x95\xa7request\x01\xa2\xff\xfe\xa1m\x90",
        b"\x92\xa4ack\0\x01",
        b"\x91\xa6census",
        b"\x91\x01",
        b"\x80",
    ],
)
def test_huge_claims_and_unknown_kinds(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed header"):
        frames.decode_from_client(header)


def test_a_header_over_the_limit_is_refused_unread() -> None:
    longest = messages.Call(1, "v", raw(b"x" * (MAX_HEADER_BYTES - 100)))
    assert frames.decode_from_client(encode(longest)) == longest
    with pytest.raises(ProtocolError, match=f"at most {MAX_HEADER_BYTES}"):
        frames.decode_from_client(encode(messages.Call(1, "v", raw(b"x" * MAX_HEADER_BYTES))))


def test_a_body_nested_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        from_raw(msgspec.Raw(b"\x91" * 100_000 + b"\x90"), list)
