"""When it matters who is in which group of Globus, and who is told: nobody's groups are asked for before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from hpcserve.config import load_site
from hpcserve.core.rollout import Version
from hpcserve.daemon.access import groups_count
from hpcserve.daemon.controller.admin import Admin
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.fence import Fence
from hpcserve.daemon.controller.plan import Servable
from hpcserve.daemon.launch import hub_address
from hpcserve.registry.rows import DeploymentRow, NameRow
from hpcserve.servable.manifest import Manifest
from hpcserve.types import DeploymentName, Digest, EndpointName, Epoch, SessionId
from hpcserve.wire import admin as verbs
from hpcserve.wire import hub
from hpcserve.wire.frames import decoder, raw

ID = "00000000-0000-4000-8000-000000000001"
GLOBUS = f"""
auth = "globus"
access.administer.allow = ["user:ada@lab.gov"]
globus.client_id = "{ID}"
globus.native_client_id = "{ID}"
"""
GROUP = "group:00000000-0000-4000-8000-000000000002"


@pytest.mark.parametrize(
    ("text", "visible_to", "count"),
    [
        (GLOBUS, (), False),
        (GLOBUS, ("*", "id:00000000-0000-4000-8000-000000000003"), False),
        (GLOBUS, ("*", GROUP), True),
        (f'{GLOBUS}globus.groups = ["{GROUP.removeprefix("group:")}"]\n', (), True),
        (f'{GLOBUS}access.publish.allow = ["{GROUP}"]\n', (), True),
        (f'{GLOBUS}access.call.deny = ["{GROUP}"]\n', (), True),
        (f"{GLOBUS}globus.ask_groups = false\n", (GROUP,), False),
        ('auth = "keys"\n', (GROUP,), False),
    ],
)
def test_groups_count(tmp_path: Path, text: str, visible_to: tuple[str, ...], count: bool) -> None:  # noqa: FBT001  a case
    path = tmp_path / "site.toml"
    path.write_text(text)
    assert groups_count(load_site(str(path)), visible_to) is count


@dataclass
class Told:
    """A controller, and what the broker is told by it."""

    controller: Controller
    socket: zmq.Socket[bytes]

    async def hear(self, *kinds: type) -> list[Any]:
        """The next messages of these kinds, one of each, in their order."""
        heard: list[Any] = []
        decode = decoder(hub.ToBroker)
        while {type(each) for each in heard} != set(kinds):
            message = decode((await asyncio.to_thread(self.socket.recv_multipart))[1])
            if isinstance(message, kinds):
                heard.append(message)
        return heard

    def share(self, *visible_to: str) -> None:
        self.controller.ownership.named(NameRow.made("s", "ops", visible_to))


@asynccontextmanager
async def told(directory: Path) -> AsyncIterator[Told]:
    path = directory / "site.toml"
    path.write_text(GLOBUS)
    site = msgspec.structs.replace(load_site(str(path)), state_dir=directory, shared_dir=directory)
    context = zmq.Context[zmq.Socket[bytes]]()
    socket = context.socket(zmq.ROUTER)
    socket.rcvtimeo = 60_000
    socket.bind(hub_address(str(directory)))
    controller = Controller(site, runtime_dir=directory, record=directory / "record", fence=Fence(directory, 1, 5.0))
    listening = asyncio.ensure_future(anext(controller.hub.messages()))  # or it says no first word
    try:
        assert await asyncio.to_thread(socket.recv_multipart) == [b"controller", b""], "it can be spoken to"
        yield Told(controller, socket)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        controller.hub.close()
        context.destroy(linger=0)


def test_that_groups_count_is_told_before_the_routes_and_to_each_broker(tmp_path: Path) -> None:
    name = DeploymentName("d")
    row = DeploymentRow(
        name=name, servable="s", version=Digest("v"), replicas=1, endpoint=EndpointName("d"), created_s=0.0
    )

    async def scenario() -> None:
        async with told(tmp_path) as play:
            controller = play.controller
            controller.serve(row, Servable(Version("v"), Manifest(name="s", loader="python"), "/"))
            controller.tell_broker()
            await play.hear(hub.Routes)
            for rules, count in ((("*",), False), ((GROUP,), True)):
                play.share(*rules)
                await controller.wait_for_routes()
                said, _ = await play.hear(hub.GroupsCount, hub.Routes)
                assert said == hub.GroupsCount(count)
            controller.broker_is_up(hub.BrokerUp(Epoch(2)))
            await controller.wait_for_routes()
            said, _ = await play.hear(hub.GroupsCount, hub.Routes)
            assert said == hub.GroupsCount(True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("visible_to", "groups", "code"),
    [
        ((GROUP,), None, "unavailable"),
        ((GROUP,), (), "unknown_endpoint"),
        (("id:00000000-0000-4000-8000-000000000003",), None, "unknown_endpoint"),
    ],
)
def test_calls_about_an_endpoint_wait_for_groups_only_where_they_count(
    tmp_path: Path, visible_to: tuple[str, ...], groups: Sequence[str] | None, code: str
) -> None:
    identity = hub.Identity("eve@lab.gov", id="e", groups=None if groups is None else tuple(groups))
    asker = hub.Asker(identity, SessionId(b"s"))

    async def scenario() -> None:
        async with told(tmp_path) as play:
            play.share(*visible_to)
            admin = Admin(play.controller, supervisor=0)
            call = hub.ClientCalls(b"c", identity.name, 1, "undeploy", raw(verbs.Undeploy(endpoint="d")), asker)
            await admin.answer(call)
            [answer] = await play.hear(hub.ToClientRelay)
            assert answer.error.code == code
            admin.close()

    asyncio.run(scenario())
