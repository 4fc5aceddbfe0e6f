"""Whether an answer has the shape of Globus's own recorded ones: the same keys and types, all the way down.

The examples are those that come with globus-sdk (``globus_sdk.testing``). A key is required if all examples of a place
have it, and known if one has it. What is null in all examples has to be null. A string that is an id, a time or an
address in all examples has to be that too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from globus_sdk.testing import get_response_set

_FORMS = {
    "id": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "time": re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?"),
    "address": re.compile(r"https?://.*"),
}


def examples(*names: str) -> list[Any]:
    """The recorded bodies of ``SERVICE.CALL`` (its default) or ``SERVICE.CALL:CASE``."""
    found = []
    for name in names:
        call, _, case = name.partition(":")
        recorded = get_response_set(call).lookup(case or "default")
        found.append(getattr(recorded, "json"))  # noqa: B009 (its base class has no types)
    return found


def differences(answer: Any, known: list[Any], at: str = "") -> list[str]:
    """Where the answer has not the shape of any example, in words."""
    kinds = {_kind(each) for each in known}
    if _kind(answer) not in kinds and not (isinstance(answer, str) and "str" in kinds):
        return [f"{at or 'the answer'}: {_kind(answer)}, not {' or '.join(sorted(kinds))}"]
    if isinstance(answer, dict):
        return [*_keys(answer, [each for each in known if isinstance(each, dict)], at)]
    if isinstance(answer, list):
        elements = [element for each in known if isinstance(each, list) for element in each]
        if elements:
            return [each for n, item in enumerate(answer) for each in differences(item, elements, f"{at}[{n}]")]
    return []


def _keys(answer: dict[str, Any], known: list[dict[str, Any]], at: str) -> Iterator[str]:
    allowed = set().union(*known)
    required = allowed.intersection(*known)
    yield from (f"{at}.{key}: is missing" for key in sorted(required - answer.keys()))
    yield from (f"{at}.{key}: no example has it" for key in sorted(answer.keys() - allowed))
    for key in answer.keys() & allowed:
        yield from differences(answer[key], [each[key] for each in known if key in each], f"{at}.{key}")


def mutations(answer: Any, known: list[Any]) -> Iterator[tuple[str, Any]]:
    """The answer with one thing wrong, for each thing: a required key gone, one too many, a value of another type."""
    if isinstance(answer, dict):
        dicts = [each for each in known if isinstance(each, dict)]
        yield "one key too many", {**answer, "unheard_of": 1}
        for key, value in answer.items():
            if all(key in each for each in dicts):
                yield f"without {key}", {name: other for name, other in answer.items() if name != key}
            yield f"{key} of another type", {**answer, key: (value,)}
            below = [each[key] for each in dicts if key in each]
            yield from ((f"{key}: {what}", {**answer, key: wrong}) for what, wrong in mutations(value, below))
    elif isinstance(answer, list):
        elements = [element for each in known if isinstance(each, list) for element in each]
        for n, item in enumerate(answer if elements else []):
            yield f"[{n}] of another type", [*answer[:n], (item,), *answer[n + 1 :]]
            for what, wrong in mutations(item, elements):
                yield f"[{n}]: {what}", [*answer[:n], wrong, *answer[n + 1 :]]


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return next((name for name, form in _FORMS.items() if form.fullmatch(value)), "str")
    return "null" if value is None else type(value).__name__
