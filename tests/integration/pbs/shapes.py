"""Whether an answer is that of a recording, but for what varies: times, process ids, paths, what was used.

Keys, their order, types and every other value have to be the same, all the way down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_FORMS = (
    ("a date", re.compile(r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}")),
    ("a path", re.compile(r"(?:\w+:)?/\S*?([\w-]+\.[eo]\d+\S*)?")),
    ("a span", re.compile(r"\d\d:\d\d:\d\d")),
    ("a size", re.compile(r"\d+kb")),
)
_DAY = re.compile(r"\w{3} \w{3} \d\d at \d\d:\d\d")
_VARIES = frozenset({
    "timestamp", "session_id", "history_timestamp", "last_state_change_time", "last_used_time",
    "total_jobs", "state_count", "array_state_count", "cput", "mem", "vmem", "walltime", "cpupercent",
})  # fmt: skip


def shape(answer: Any, key: str = "") -> Any:
    """The answer with all that varies replaced by its form. What is asked for does not vary."""
    if isinstance(answer, dict):
        return [(name, shape(each, "" if key == "Resource_List" else name)) for name, each in answer.items()]
    if isinstance(answer, list):
        return [shape(each) for each in answer]
    if isinstance(answer, str):
        return _form(answer, key)
    return type(answer).__name__ if key in _VARIES else answer


def _form(text: str, key: str) -> str:
    if key in {"state_count", "array_state_count"}:
        return re.sub(r"\d+", "n", text)
    for name, form in _FORMS:
        found = form.fullmatch(text)
        if found is not None and (name not in {"a span", "a size"} or key in _VARIES):
            return f"{name} {found[1] or ''}" if name == "a path" else name
    return _DAY.sub("a day", text)


def mutations(answer: Any) -> Iterator[tuple[str, Any]]:
    """The answer with one thing wrong, for each thing: a key gone, one too many, another order, another type."""
    if not isinstance(answer, dict):
        return
    yield "one key too many", {**answer, "unheard_of": 1}
    names = list(answer)
    if len(names) > 1:
        yield "in another order", {name: answer[name] for name in reversed(names)}
    for name, value in answer.items():
        yield f"without {name}", {other: each for other, each in answer.items() if other != name}
        yield f"{name} of another type", {**answer, name: str(value) if isinstance(value, int) else 12345678}
        yield from ((f"{name}: {what}", {**answer, name: wrong}) for what, wrong in mutations(value))
