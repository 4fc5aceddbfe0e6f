"""Has results brought to collections and looks on until they have arrived: one thread for all of a client's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from hpcserve.client.arguments import FOREVER
from hpcserve.client.sending import AWAY, AWAY_S, LONGEST_LOOK_S, SHORTEST_LOOK_S, Ask, Journey, Transfer, longer
from hpcserve.errors import HpcserveError, ProtocolError, ServiceUnavailable
from hpcserve.wire.admin import Admin, AskTransfers, TransferList, TransferView

MOST_AT_ONCE = 200
"""So many are looked at by one call: what is said of them fits easily into its answer."""


@dataclass(eq=False)
class _Watched:
    journey: Journey
    ask: Ask
    ended: Callable[[Transfer | HpcserveError], None]
    id: str = ""
    away_since: float = FOREVER


class Lookout:
    """Its thread is begun when there is something to look at, and nobody waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._new: list[_Watched] = []
        self._watched: list[_Watched] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._away: HpcserveError = ServiceUnavailable("the service does not answer")

    def watch(self, journey: Journey, ask: Ask, ended: Callable[[Transfer | HpcserveError], None]) -> None:
        """Asks for it at once, if it was not seen yet, and calls ``ended`` when it has arrived or will not."""
        with self._changed:
            self._new.append(_Watched(journey, ask, ended, "" if journey.last is None else journey.last.id))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="hpcserve-lookout", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Looks at nothing any more; nobody is told."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        pause_s, look_at = SHORTEST_LOOK_S, FOREVER
        while True:
            with self._changed:
                while not (self._closed or self._new) and (left_s := look_at - time.monotonic()) > 0:
                    self._changed.wait(None if look_at == FOREVER else left_s)
                if self._closed:
                    return
                new, self._new = self._new, []
            self._watched += new
            is_due = time.monotonic() >= look_at
            away = not self._ask_all(new if new and not is_due else self._watched)
            if new:
                pause_s, look_at = SHORTEST_LOOK_S, min(look_at, time.monotonic() + SHORTEST_LOOK_S)
            if away or is_due:
                pause_s = LONGEST_LOOK_S if away else longer(pause_s)
                look_at = time.monotonic() + pause_s
            if not self._watched:
                look_at = FOREVER
            del new  # what has ended is not kept until there is more

    def _ask_all(self, wanted: Sequence[_Watched]) -> bool:
        """Asks for what was not asked for yet, and looks at the others. Whether the service has answered."""
        parts = [list(part) for _, part in groupby(sorted(wanted, key=_together), _together)]
        answered = True
        for part in parts:
            for first in range(0, len(part), MOST_AT_ONCE):
                some = part[first : first + MOST_AT_ONCE]
                answered = self._ask(some) if answered else self._is_away(some, self._away)
        return answered

    def _ask(self, part: Sequence[_Watched]) -> bool:
        """Whether the service has answered."""
        verb, arguments = _words(part)
        try:
            views = part[0].ask(verb, arguments, TransferList).transfers
        except AWAY as error:
            return self._is_away(part, error)
        except HpcserveError as error:
            if len(part) > 1:  # it may be about one of them
                answers = [self._ask([each]) for each in part]
                return all(answers)
            self._end(part[0], error)
            return True
        if len(views) != len(part):
            for each in part:
                self._end(each, ProtocolError(f"{len(part)} transfers were asked about, {len(views)} were told of"))
            return True
        for watched, view in zip(part, views, strict=True):
            watched.id = view.id
            self._saw(watched, view)
        return True

    def _saw(self, watched: _Watched, view: TransferView) -> None:
        watched.away_since = FOREVER
        try:
            end: Transfer | HpcserveError | None = watched.journey.look(view, time.monotonic())
        except HpcserveError as error:
            end = error
        except Exception as error:  # noqa: BLE001 (of a caller's callback; others' results wait for this thread)
            end = HpcserveError(f"transfer {view.id} is not looked at any more: {error!r}")
        if end is not None:
            self._end(watched, end)

    def _is_away(self, part: Sequence[_Watched], error: HpcserveError) -> bool:
        """Both calls may be made twice: they are, for a time. False."""
        self._away = error
        now = time.monotonic()
        for each in part:
            each.away_since = min(each.away_since, now)
            if now - each.away_since > AWAY_S:
                self._end(each, error)
            else:
                self._tell(each, error)
        return False

    def _tell(self, watched: _Watched, away: HpcserveError) -> None:
        try:
            watched.journey.unseen(away)
        except Exception as error:  # noqa: BLE001 (as above)
            self._end(watched, HpcserveError(f"transfer {watched.id} is not looked at any more: {error!r}"))

    def _end(self, watched: _Watched, end: Transfer | HpcserveError) -> None:
        self._watched.remove(watched)
        watched.ended(end)


def _together(watched: _Watched) -> tuple[str, str, bool]:
    """Alike for those that one call may ask for. Only to a directory may several go."""
    asked = watched.journey.asked
    if watched.id:
        return ("", "", False)
    return (asked.to, "" if asked.to.endswith("/") else asked.paths[0], asked.keep_login)


def _words(part: Sequence[_Watched]) -> tuple[str, Admin]:
    if part[0].id:
        return "transfers", AskTransfers(ids=tuple(each.id for each in part))
    paths = tuple(path for each in part for path in each.journey.asked.paths)
    return "deliver", msgspec.structs.replace(part[0].journey.asked, paths=paths)
