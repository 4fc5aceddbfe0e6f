"""What the controller's log says of calls: those that change something, not those that only ask."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

from hpcserve.config import load_site
from hpcserve.daemon.controller.admin import Admin
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.fence import Fence
from hpcserve.types import SessionId
from hpcserve.wire import admin as verbs
from hpcserve.wire import hub
from hpcserve.wire.frames import raw

ANN = hub.Asker(hub.Identity("ann"), SessionId(b"s"))


def carry_out(directory: Path, calls: dict[str, verbs.Admin]) -> None:
    """Has a controller without a broker answer these calls, by their verbs."""

    async def scenario() -> None:
        site = msgspec.structs.replace(load_site("local"), state_dir=directory, shared_dir=directory)
        controller = Controller(
            site, runtime_dir=directory, record=directory / "record", fence=Fence(directory, 1, 5.0)
        )
        admin = Admin(controller, supervisor=0)
        for verb, arguments in calls.items():
            await admin.answer(hub.ClientCalls(b"c", "ann", 1, verb, raw(arguments), ANN))
        admin.close()
        controller.hub.close()

    asyncio.run(scenario())


def test_the_log_names_calls_that_change_something_and_none_that_asks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = {"describe": verbs.Describe(endpoint="e"), "logs": verbs.AskLogs(name="e"), "status": verbs.AskStatus()}
    carry_out(tmp_path, {**asked, "undeploy": verbs.Undeploy(endpoint="e")})
    assert [each.getMessage() for each in caplog.records if "calls" in each.getMessage()] == ["ann calls undeploy"]
