"""What a caller may give as an argument, and the error for all else: it names the argument, the value and the choice.

The hot path takes what it needs no look at; everything else comes here. So these checks may take their time.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from hpcserve.client.services import Service
from hpcserve.errors import InvalidInput
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import MAX_HEADER_BYTES, raw

FOREVER = float("inf")
LONGEST_S = 10 * 366 * 24 * 3600.0  # a longer deadline is none
HALF_HEADER_BYTES = MAX_HEADER_BYTES // 2  # the rest is for acknowledgements
LONGEST_TARGET = 1024
REMEMBERED = 512
PRIORITIES = range(-(1 << 63), 1 << 63)
NOTHING: msgspec.Raw = wire.EMPTY_MAP

T = TypeVar("T")

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 60


def shown(value: object) -> str:
    """A value for a message, on one line."""
    try:
        return " ".join(_brief.repr(value).split())
    except Exception:  # noqa: BLE001 (a foreign __repr__ raises what it likes, and so does an integer of many digits)
        return f"an object of type {type(value).__name__}"


def _is_a(kind: type, number: object) -> bool:
    """Whether it is a number of this kind, numpy's included; to Python a bool is one, to a reader a mistake."""
    return isinstance(number, kind) and not isinstance(number, bool)


def seconds(timeout_s: Any) -> float:
    """A time-out; without end for None and for what no caller lives to see.

    Raises:
        InvalidInput: It is no number, negative or nan.
    """
    if timeout_s is None:
        return FOREVER
    if _is_a(numbers.Real, timeout_s) and timeout_s >= 0:
        return float(timeout_s) if timeout_s < LONGEST_S else FOREVER
    raise InvalidInput(f"timeout_s is {shown(timeout_s)}: give a number of seconds, 0 or more, or None for no deadline")


def whole_priority(priority: Any) -> int:
    """A priority as a plain integer.

    Raises:
        InvalidInput: It is no integer, or has more than 64 bits.
    """
    if _is_a(numbers.Integral, priority):
        number = operator.index(priority)
        if number in PRIORITIES:
            return number
    raise InvalidInput(f"priority is {shown(priority)}: give an integer from -2**63 to 2**63 - 1; greater goes first")


def names_in(target: Any) -> tuple[str, str]:
    """The endpoint and the method (or "") that ``NAME`` or ``NAME.METHOD`` names.

    Raises:
        InvalidInput: It is not of this form.
    """
    if not isinstance(target, str):
        raise InvalidInput(f"endpoint is {shown(target)}: give text, NAME or NAME.METHOD")
    return split(str.__str__(target))


@functools.lru_cache(maxsize=REMEMBERED)
def split(target: str) -> tuple[str, str]:
    """As :func:`names_in`, of what is text; it runs once per call, and remembers."""
    endpoint, dot, method = target.partition(".")
    if not endpoint or (dot and not method):
        raise InvalidInput(f"endpoint is {shown(target)}: give NAME or NAME.METHOD")
    if len(target) > LONGEST_TARGET:
        raise InvalidInput(f"endpoint is {shown(target)}, {len(target)} characters: at most {LONGEST_TARGET} are sent")
    if not target.isascii():
        try:
            target.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"endpoint is {shown(target)}: {error}; give NAME or NAME.METHOD") from error
    return endpoint, method


def named(inputs: Any) -> Mapping[str, Any]:
    """The inputs by name; a method's only input has the name "".

    Raises:
        InvalidInput: There is nothing.
    """
    if inputs is None:
        raise InvalidInput(
            "inputs is None: give an array, or arrays by name; {} for a method without inputs, Json(None) for null"
        )
    return inputs if type(inputs) is dict or isinstance(inputs, Mapping) else {"": inputs}


def not_sent(target: object, error: InvalidInput) -> InvalidInput:
    """The error of inputs that cannot travel, with the call that they were for."""
    told = error.message.removeprefix("tensor '': ")  # an only input, which the caller gave no name
    return InvalidInput(f"inputs of {shown(target)}: {told}")


def encoded(parameters: Any) -> msgspec.Raw:
    """The parameters as the wire carries them.

    Raises:
        InvalidInput: They are not given by name, or a value cannot travel.
    """
    if not isinstance(parameters, Mapping):
        raise InvalidInput(f"parameters is {shown(parameters)}: give a dictionary of values by name, or None")
    for name in parameters:
        if not isinstance(name, str):
            raise InvalidInput(f"parameters: the name {shown(name)} is not text; name each value by text")
    try:
        return raw(dict(parameters)) if parameters else NOTHING
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"parameters is {shown(dict(parameters))}: {error}; give numbers, text, bytes, lists and dictionaries"
        ) from error


def too_long(parameters: msgspec.Raw) -> InvalidInput:
    """The error of parameters that, with what the request says of its tensors, do not fit in a header."""
    return InvalidInput(
        f"the parameters take {len(parameters)} bytes: a request's header holds {HALF_HEADER_BYTES}; "
        "send large values as inputs"
    )


def one_of(value: Any, what: str, choices: Sequence[str]) -> str:
    """A word out of several.

    Raises:
        InvalidInput: It is another one.
    """
    if isinstance(value, str) and value in choices:
        return value
    raise InvalidInput(f"{what} is {shown(value)}: give one of {', '.join(map(repr, choices))}")


def bound(number: Any, what: str = "in_flight", most: float = FOREVER) -> int:
    """How many calls ``map`` may have out, or how many items a stream.

    Raises:
        InvalidInput: It is no integer, or less than 1, or more than ``most``.
    """
    if _is_a(numbers.Integral, number) and 1 <= number <= most:
        return operator.index(number)
    told = "" if most == FOREVER else f" and at most {most}"
    raise InvalidInput(f"{what} is {shown(number)}: give an integer, at least 1{told}")


def each_of(items: Iterable[T]) -> Iterator[T]:
    """What ``map`` goes through.

    Raises:
        InvalidInput: It cannot be gone through.
    """
    try:
        return iter(items)
    except TypeError as error:
        raise InvalidInput(
            f"items is {shown(items)}: give a list, or another ordinary iterable, of the inputs of each call"
        ) from error


def body(verb: Any, arguments: Any) -> msgspec.Raw:
    """The body of an administrative call.

    Raises:
        InvalidInput: The verb is no text, or the arguments are no struct.
    """
    if not isinstance(verb, str):
        raise InvalidInput(f"verb is {shown(verb)}: give text, such as 'status'")
    if not isinstance(arguments, msgspec.Struct):
        raise InvalidInput(f"arguments is {shown(arguments)}: give a struct of hpcserve.wire.admin")
    try:
        return raw(arguments)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"arguments is {shown(arguments)}: {error}") from error


def check_agrees(agrees: Any) -> None:
    """Refuses what cannot be asked whether a transfer may be submitted.

    Raises:
        InvalidInput: It is no plain function; the answer of a coroutine would never be heard.
    """
    if agrees is not None and (not callable(agrees) or inspect.iscoroutinefunction(agrees)):
        raise InvalidInput(f"agrees is {shown(agrees)}: give a function (told, *, is_named) that returns True or False")


def service_named(service: Any) -> str | Service | None:
    """Which service a client is for.

    Raises:
        InvalidInput: It is neither a name nor a Service.
    """
    if service is None or isinstance(service, (str, Service)):
        return service
    raise InvalidInput(f"service is {shown(service)}: give a name from hpcserve service list, a Service, or None")
