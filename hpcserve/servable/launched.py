"""A call that was launched: it computes while its replica takes, and forms, the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpcserve.errors import ServableError


class Launched:
    """One call.

    Args:
        is_done: Whether ``result`` need not wait.
        result: Waits for it; gives the outputs by name, or raises what went wrong.
    """

    def __init__(self, is_done: Callable[[], object], result: Callable[[], dict[str, Any]]) -> None:
        self._is_done = is_done
        self.result = result

    def done(self) -> bool:
        """Whether :attr:`result` need not wait."""
        try:
            return bool(self._is_done())
        except ServableError:
            return True  # its result will tell


def is_pending(answer: object) -> bool:
    """Whether a method's answer is still to come: it is a :class:`~hpcserve.servable.api.Pending`."""
    return callable(getattr(answer, "done", None)) and callable(getattr(answer, "result", None))


def settled(answer: Any) -> object:
    """The answer itself, waited for where it is still to come."""
    return answer.result() if is_pending(answer) else answer
