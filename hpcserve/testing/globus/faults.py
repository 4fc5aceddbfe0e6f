"""What the stand-in is told to do wrong: refuse, be slow, or leave something out of an answer."""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hpcserve.testing.globus.http import Request, Response


@dataclass
class _Fault:
    pattern: re.Pattern[str]
    left: int | None
    status: int = 0
    retry_after_s: int | None = None
    stall_s: float = 0.0
    body: dict[str, Any] | str | None = None
    drop: tuple[str, ...] = ()
    after: bool = False


@dataclass(frozen=True)
class Met:
    """What is wrong with a request: an answer in place of the service's, and what to leave out of that.

    ``after``: the service does what it is asked first.
    """

    instead: Response | None = None
    drop: tuple[str, ...] = ()
    after: bool = False


class Faults:
    """The faults in force, and what was asked so far.

    A pattern is a regular expression that begins ``METHOD PATH``, such as ``POST /v2/oauth2/token$`` or ``.* /v0.10/``.
    The oldest fault that matches is the one that applies, as often as it was told to; None: until :meth:`clear`.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """How often each ``METHOD PATH`` was asked, refused or not."""
        self._faults: list[_Fault] = []
        self._changed = threading.Condition()
        self._released = 0

    def add(
        self,
        pattern: str,
        status: int = 503,
        *,
        times: int | None = 1,
        retry_after_s: int | None = None,
        body: dict[str, Any] | str | None = None,
        after: bool = False,
    ) -> None:
        """Refuse with this status. ``body``: what is said with it, by default a code and a message; a text is HTML.

        With ``after`` it is done all the same, and only the answer is lost.
        """
        told = _Fault(re.compile(pattern), times, status=status, retry_after_s=retry_after_s, body=body, after=after)
        self._add(told)

    def stall(self, pattern: str, seconds: float, *, times: int | None = 1) -> None:
        """Answer only after so many seconds, or when the faults are cleared."""
        self._add(_Fault(re.compile(pattern), times, stall_s=seconds))

    def drop(self, pattern: str, *keys: str, times: int | None = None) -> None:
        """Leave keys out of a JSON answer. A key within another is written ``outer.inner``."""
        self._add(_Fault(re.compile(pattern), times, drop=keys))

    def clear(self) -> None:
        """Do nothing wrong any more, and let those go on who wait."""
        with self._changed:
            self._faults.clear()
            self._released += 1
            self._changed.notify_all()

    # --- the server's side ------------------------------------------------------------------------

    def meet(self, request: Request) -> Met:
        """What is wrong with this request; it counts as asked."""
        call = f"{request.method} {request.path}"
        with self._changed:
            self.asked[call] += 1
            fault = next((each for each in self._faults if each.pattern.match(call)), None)
            if fault is None:
                return Met()
            if fault.left is not None:
                fault.left -= 1
                if not fault.left:
                    self._faults.remove(fault)
            if fault.stall_s:
                before = self._released
                self._changed.wait_for(lambda: self._released > before, timeout=fault.stall_s)
        if not fault.status:
            return Met(drop=fault.drop)
        headers = {} if fault.retry_after_s is None else {"retry-after": str(fault.retry_after_s)}
        told_body = fault.body or {"code": "ServiceUnavailable", "message": f"told to answer {fault.status}"}
        return Met(Response(fault.status, told_body, headers), after=fault.after)

    def _add(self, fault: _Fault) -> None:
        with self._changed:
            self._faults.append(fault)


def without(document: Any, path: str) -> None:
    """Take one key out of a JSON document, where it is there."""
    outer, _, inner = path.partition(".")
    if not isinstance(document, dict):
        return
    if not inner:
        document.pop(outer, None)
    else:
        without(document.get(outer), inner)
