"""``python -m hpcserve.daemon.controller``: started by the supervisor. Ends with 0 when the daemon is to go down."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from hpcserve.config import Site
from hpcserve.daemon.controller.admin import Admin
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.crowd import Crowd
from hpcserve.daemon.launch import ChildStart, receive_start, report_error, report_ready
from hpcserve.daemon.lifeline import Lifeline
from hpcserve.errors import HpcserveError
from hpcserve.wire import hub

GO_DOWN, PARENT_GONE = 0, 1
ANSWER_S = 0.1
"""The answer to who took the daemon down has so long to reach the broker; what is unsent when this ends is lost."""
MOST_CALLS, MOST_ENROLMENTS = 64, 16
"""At a time; who calls or enrols while there are so many is told to come back."""


def main() -> int:
    """Runs the controller; its exit code tells the supervisor why it ended."""
    site, start = receive_start("controller")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    return asyncio.run(_run(site, start))


async def _run(site: Site, start: ChildStart) -> int:
    controller = Controller(site, runtime_dir=Path(start.runtime_dir), record=Path(start.record))
    try:
        await controller.open()
    except HpcserveError as error:
        report_error(start, error)
        return PARENT_GONE
    # A lost parent is a lost daemon: its pilots go on, and the next daemon takes them over.
    parent = asyncio.create_task(Lifeline().wait())
    admin = Admin(controller, supervisor=os.getppid())
    listening = asyncio.create_task(_listen(controller, admin))
    working = asyncio.create_task(controller.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, controller.stop.set)
    report_ready(start, {})  # from now on it may be told to end
    await asyncio.wait({parent, listening, working}, return_when=asyncio.FIRST_COMPLETED)
    if parent.done():
        os._exit(PARENT_GONE)
    for task in (listening, working):
        if task.done():
            task.result()
    if admin.goes_down:
        await asyncio.sleep(ANSWER_S)
    admin.close()
    listening.cancel()
    parent.cancel()
    await asyncio.gather(listening, parent, return_exceptions=True)
    await controller.close()
    return GO_DOWN


async def _listen(controller: Controller, admin: Admin) -> None:
    """Takes what the broker says, in order; but calls and enrolments, which may take long, run on their own."""
    async with asyncio.TaskGroup() as tasks:
        calls, enrolments = Crowd(tasks, MOST_CALLS), Crowd(tasks, MOST_ENROLMENTS)
        async for message in controller.hub.messages():
            if isinstance(message, hub.ClientCalls):
                if not calls.begin(partial(admin.answer, message)):
                    admin.refuse(message)
            elif isinstance(message, hub.EnrolAsk):
                if not enrolments.begin(partial(controller.enrol, message)):
                    controller.refuse(message)
                await asyncio.sleep(0)  # who holds no secret is refused by now, and takes up no place
            else:
                await _hear(controller, message)


async def _hear(controller: Controller, message: Any) -> None:
    if isinstance(message, hub.AgentSays):
        await controller.agent_says(message)
    elif isinstance(message, hub.BrokerUp):
        controller.broker_is_up(message)
    elif isinstance(message, hub.ReplicaHung):
        controller.replica_hung(message)
    elif isinstance(message, hub.ReplicaUnwanted):
        controller.replica_unwanted(message)
    elif isinstance(message, hub.Away):
        controller.away(message)
    elif isinstance(message, hub.Lacking):
        controller.lacking(message)
    elif isinstance(message, hub.ReplicaIdle):
        controller.replica_idle(message)


if __name__ == "__main__":
    sys.exit(main())
