"""The controller's guard: what it lets through, and what it writes down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcserve.config import Access, Rules, load_site
from hpcserve.core.access import Servable, Service
from hpcserve.daemon.access import caller_of
from hpcserve.daemon.controller.guard import Asking, Guard
from hpcserve.errors import PermissionDenied
from hpcserve.types import SessionId
from hpcserve.wire import hub

ACCESS = Access(publish=Rules(allow=("user:ada",)), administer=Rules(allow=("user:ops",)))


def asking(name: str, request: int = 1, **more: Any) -> Asking:
    identity = hub.Identity(name, key="k" * 40, **more)
    return Asking(hub.Asker(identity, SessionId(b"\xab" * 16), "10.0.0.7"), caller_of(identity), request)


def written(directory: Path, scenario: Callable[[Guard], Awaitable[None]]) -> list[dict[str, Any]]:
    """The lines after a scenario."""

    async def run() -> None:
        site = msgspec.structs.replace(load_site("local"), state_dir=directory, access=ACCESS)
        guard = Guard(site)
        await scenario(guard)
        guard.close()

    asyncio.run(run())
    path = directory / "audit" / "controller.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_denial_is_written_down_and_says_which_list(tmp_path: Path) -> None:
    async def scenario(guard: Guard) -> None:
        with pytest.raises(PermissionDenied, match=r"not publish digits: the site's \[access\] publish.allow does not"):
            await guard.check(asking("bob", 7, token_sha256="ab" * 32), "publish", Service(), "digits")

    (line,) = written(tmp_path, scenario)
    assert line["allowed"] is False
    assert (line["name"], line["session"], line["request"], line["peer"]) == ("bob", "ab" * 16, "7", "10.0.0.7")
    assert line["token_sha256"] == "ab" * 32


def test_a_look_is_a_line_once_and_a_change_each_time(tmp_path: Path) -> None:
    async def scenario(guard: Guard) -> None:
        for request in range(3):
            for action in ("see", "administer"):
                thing = Servable("user:ada")
                decision = guard.judge(asking("ada"), action, thing)
                await guard.note(asking("ada", request), action, "digits", decision)

    assert [line["action"] for line in written(tmp_path, scenario)] == ["see", *["administer"] * 3]


def test_the_brokers_decisions_are_written_and_then_acknowledged(tmp_path: Path) -> None:
    noted: list[int] = []
    asker = asking("ada").asker
    decisions = tuple(hub.CallDecided(n, asker, 10 + n, "echo", allowed=True, by="owner") for n in (4, 5))

    async def scenario(guard: Guard) -> None:
        guard.calls_decided(hub.CallsDecided(decisions, lost=3), noted.append)
        while not noted:
            await asyncio.sleep(0.01)

    lines = written(tmp_path, scenario)
    assert noted == [5]
    assert [(line["action"], line["request"]) for line in lines] == [("audit", ""), ("call", "14"), ("call", "15")]
    assert lines[0]["reason"].startswith("3 decisions of the broker are missing")


def test_what_the_lists_allow_is_told_to_who_asks(tmp_path: Path) -> None:
    told: dict[str, tuple[str, ...]] = {}

    async def scenario(guard: Guard) -> None:
        told.update({name: guard.listed(asking(name)) for name in ("ada", "bob", "ops")})

    written(tmp_path, scenario)
    assert told == {
        "ada": ("call", "publish", "deploy"),
        "bob": ("call", "deploy"),
        "ops": ("call", "publish", "deploy", "administer"),
    }
