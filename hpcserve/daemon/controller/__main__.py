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
from hpcserve.core.lease import lease_epoch, renewed_every_s
from hpcserve.daemon import farewell, placement
from hpcserve.daemon.controller.admin import Admin
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.crowd import Crowd
from hpcserve.daemon.controller.fence import Fence
from hpcserve.daemon.launch import ChildStart, receive_start, report_error, report_ready
from hpcserve.daemon.lifeline import Lifeline
from hpcserve.errors import HpcserveError
from hpcserve.wire import hub

_log = logging.getLogger(__name__)

GO_DOWN, PARENT_GONE = 0, 1
ANSWER_S = 0.1
"""The answer to who took the daemon down has so long to reach the broker; what is unsent when this ends is lost."""
SUCCEED_AGAIN_S = 10.0
"""A daemon in a job tries so often to submit the next one."""
MOST_CALLS, MOST_ENROLMENTS = 64, 16
"""At a time; who calls or enrols while there are so many is told to come back."""


def main() -> int:
    """Runs the controller; its exit code tells the supervisor why it ended."""
    site, start = receive_start("controller")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    return asyncio.run(_run(site, start))


async def _run(site: Site, start: ChildStart) -> int:
    every_s = renewed_every_s(site.recovery.lease_s)
    fence = Fence(site.shared_dir, lease_epoch(start.epoch), every_s)
    controller = Controller(
        site,
        runtime_dir=Path(start.runtime_dir),
        record=Path(start.record),
        fence=fence,
        unbidden=farewell.unbidden(placed=bool(start.placed)),
    )
    try:
        await controller.open()
    except HpcserveError as error:
        report_error(start, error)
        return PARENT_GONE
    # A lost parent is a lost daemon: its pilots go on, and the next daemon takes them over.
    parent = asyncio.create_task(Lifeline().wait())
    supervisor = os.getppid()
    admin = Admin(controller, supervisor=supervisor)
    fenced_off = asyncio.create_task(fence.lost())
    listening = asyncio.create_task(_listen(controller, admin))
    working = asyncio.create_task(controller.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, controller.stop.set)
    succession = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, succession.set)
    succeeding = asyncio.create_task(_succeed(controller, fence, start.placed, succession))
    report_ready(start, {})  # from now on it may be told to end
    await asyncio.wait({parent, listening, working, fenced_off}, return_when=asyncio.FIRST_COMPLETED)
    if fenced_off.done() and not parent.done():
        await _end_the_daemon(supervisor, parent, within_s=every_s)
    if parent.done():
        os._exit(PARENT_GONE)
    for task in (listening, working):
        if task.done():
            task.result()
    if admin.goes_down:
        await asyncio.sleep(ANSWER_S)
    admin.close()
    for task in (listening, parent, fenced_off, succeeding):
        task.cancel()
    await asyncio.gather(listening, parent, fenced_off, succeeding, return_exceptions=True)
    await controller.close()
    return GO_DOWN


async def _end_the_daemon(supervisor: int, parent: asyncio.Task[None], within_s: float) -> None:
    """Another daemon has the lease. The supervisor sees that too and ends all, unless it stands still: then this does.

    Args:
        supervisor: Its pid.
        parent: Done when it is gone.
        within_s: How long it has.
    """
    _log.error("another daemon has taken the lease: nothing more is submitted or cancelled")
    await asyncio.wait({parent}, timeout=within_s)
    if not parent.done() and os.getppid() == supervisor:
        _log.error("the supervisor stands still, and is killed: everything of this daemon ends with it")
        os.kill(supervisor, signal.SIGKILL)
        await parent


async def _succeed(controller: Controller, fence: Fence, placed: str, asked: asyncio.Event) -> None:
    """When the job that the daemon runs in is about to end: submits the next one, and makes room for it.

    Until that is done the daemon goes on, and what ends the job leaves the pilots. One that was told to go down has no
    successor, nor has one that has lost its lease: who holds it has its own.
    """
    await asked.wait()
    if not placed:
        _log.warning("SIGUSR1 is ignored: this daemon does not run in a job")
        return
    while True:
        await fence.passed()
        if controller.parting.goes_down:
            return
        try:
            job = await placement.submit(controller.site, placed)
        except HpcserveError as error:
            _log.error("the job of this daemon ends, and there is no next one yet: %s; or run: hpcserve up", error)
            await asyncio.sleep(SUCCEED_AGAIN_S)
        else:
            _log.info("the job of this daemon ends; the next one is job %s", job)
            controller.stop.set()
            return


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
        controller.absent.hear(message)
    elif isinstance(message, hub.Lacking):
        controller.lacking(message)
    elif isinstance(message, hub.ResultStaged):
        await controller.staged.note(message)
    elif isinstance(message, hub.ReplicaIdle):
        controller.replica_idle(message)
    elif isinstance(message, hub.CallsDecided):
        controller.guard.calls_decided(message, lambda number: controller.hub.tell(hub.DecisionsNoted(number)))


if __name__ == "__main__":
    sys.exit(main())
