"""What the controller asks before it does what it is told: may this caller? Each decision is a line of the audit log.

What was decided is :mod:`hpcserve.core.access`'s to say. A look that was allowed is written down once for each session
and object, whatever it repeats; lists, such as the status, show what their reader may see, and are no line each.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from hpcserve.config import Site
from hpcserve.core.access import Action, Caller, Decision, Servable, Service, Thing, decide, everybody_administers
from hpcserve.daemon.access import caller_of, policy_of
from hpcserve.daemon.audit import ASKING, AuditLog, Record, audit_path
from hpcserve.errors import PermissionDenied
from hpcserve.wire import hub

OWN = Decision(allowed=True, by="owner")
"""What the directory of one's own results, and what leaves it, is."""
MOST_NOTED = 10_000
_WITHOUT_OWNER: dict[Action, Thing] = {
    "call": Servable(),
    "publish": Service(),
    "deploy": Servable(),
    "administer": Service(),
}


class Asking(NamedTuple):
    """A call that is to be judged. ``request``: its id."""

    asker: hub.Asker
    caller: Caller
    request: int


def asking_of(call: hub.ClientCalls) -> Asking:
    """Who calls."""
    return Asking(call.asker, caller_of(call.asker.identity), call.id)


class Guard:
    """Judges, and writes down what it judged.

    Args:
        site: Its lists, and where the log is.
    """

    def __init__(self, site: Site) -> None:
        self.policy = policy_of(site)
        self.everybody_administers = everybody_administers(self.policy)
        self._log = AuditLog(audit_path(site.state_dir, "controller"))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._closed = False
        self._noted: OrderedDict[tuple[object, ...], None] = OrderedDict()

    def sees(self, asking: Asking, thing: Thing) -> bool:
        """Whether a list shows the thing to the caller."""
        return self.may(asking, "see", thing)

    def may(self, asking: Asking, action: Action, thing: Thing) -> bool:
        """Whether something will be allowed. No line: it is asked for the thing itself later."""
        return self.judge(asking, action, thing).allowed

    def judge(self, asking: Asking, action: Action, thing: Thing) -> Decision:
        """What is decided. No line: see :meth:`note`."""
        return decide(self.policy, asking.caller, action, thing)

    def administers(self, asking: Asking) -> bool:
        """Whether the caller is an administrator."""
        return self.may(asking, "administer", Service())

    def listed(self, asking: Asking) -> tuple[str, ...]:
        """What the site's lists let the caller do, as far as it depends on no owner and no visibility."""
        return tuple(action for action, thing in _WITHOUT_OWNER.items() if self.may(asking, action, thing))

    async def check(self, asking: Asking, action: Action, thing: Thing, name: str) -> None:
        """Returns if the caller may do this; the line is written first.

        Args:
            asking: Who, and in which call.
            action: What is to be done.
            thing: To what.
            name: What that is called.

        Raises:
            PermissionDenied: It may not be done.
        """
        decision = self.judge(asking, action, thing)
        await self.note(asking, action, name, decision)
        if not decision.allowed:
            raise PermissionDenied(f"you may not {action} {name}: {decision.reason}")

    def judge_owned(self, asking: Asking, *, own: bool) -> Decision:
        """What is decided of what nobody but its owner sees, and administrators. No line: see :meth:`note`."""
        return OWN if own else self.judge(asking, "administer", Service())

    async def check_everybody(self, asking: Asking, what: str) -> None:
        """Returns if the caller may see everybody's: what is no single thing's list. The line is written first.

        Raises:
            PermissionDenied: Only administrators may.
        """
        decision = self.judge_owned(asking, own=False)
        await self.note(asking, "see", f"everybody's {what}", decision)
        if not decision.allowed:
            raise PermissionDenied(f"only administrators see everybody's {what}; leave that away to see yours")

    async def refuse_hidden(self, asking: Asking, action: Action, name: str) -> None:
        """Writes down that somebody asked for what he may not know of."""
        await self.note(asking, action, name, Decision(allowed=False, by="visible_to", reason="it is not visible"))

    async def note(self, asking: Asking, action: str, name: str, decision: Decision) -> None:
        """Writes a decision down, unless it is one that only repeats another."""
        if action in ASKING and decision.allowed:
            key = (asking.asker.session, action, name, decision)
            if key in self._noted:
                return
            self._noted[key] = None
            if len(self._noted) > MOST_NOTED:
                self._noted.popitem(last=False)
        record = _record(asking.asker, asking.request, action, name, decision)
        await asyncio.get_running_loop().run_in_executor(self._writer, self._log.write, record)

    def calls_decided(self, message: hub.CallsDecided, noted: Callable[[int], None]) -> None:
        """The broker has decided who may call what. ``noted`` is told the last number when all is written."""
        lines = [
            _record(each.asker, each.request, "call", each.endpoint, Decision(each.allowed, each.by, each.reason))
            for each in message.decisions
        ]
        if message.lost:
            why = f"{message.lost} decisions of the broker are missing: there was no controller to write them down"
            lines.insert(0, Record(action="audit", object="", allowed=True, by="", reason=why))
        last = message.decisions[-1].number
        written = asyncio.get_running_loop().run_in_executor(self._writer, self._write, lines)
        written.add_done_callback(lambda _: None if self._closed else noted(last))

    def _write(self, lines: list[Record]) -> None:
        for line in lines:
            self._log.write(line)

    def close(self) -> None:
        """Writes what is left."""
        self._closed = True
        self._writer.shutdown()


def _record(asker: hub.Asker, request: int, action: str, name: str, decision: Decision) -> Record:
    identity = asker.identity
    return Record(
        action=action,
        object=name,
        allowed=decision.allowed,
        by=decision.by,
        reason=decision.reason,
        name=identity.name,
        id=identity.id,
        account=identity.account,
        key=identity.key,
        token_sha256=identity.token_sha256,
        session=asker.session.hex(),
        request=str(request),
        peer=asker.peer,
    )
