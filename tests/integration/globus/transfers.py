"""A facility's collection and a laptop's, and the real ``TransferClient`` between them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import globus_sdk

from hpcserve.testing.globus.collections import Collection, Kind
from hpcserve.testing.globus.records import TRANSFER_ALL, Person
from hpcserve.testing.globus.scopes import parse
from tests.integration.globus.setting import Setting

WITHIN_S = 60.0


@dataclass(frozen=True)
class Transfers:
    """Both are the person's. The facility's asks for a consent, which is given."""

    setting: Setting
    facility: Collection
    laptop: Collection

    def client(self, person: Person | None = None) -> globus_sdk.TransferClient:
        """Transfer, as this person's programs speak to it after a login."""
        token = self.setting.world.token_for(person or self.setting.person, self.setting.native, TRANSFER_ALL)
        return globus_sdk.TransferClient(authorizer=globus_sdk.AccessTokenAuthorizer(token.value))

    def consent(self, collection: Collection, person: Person | None = None) -> None:
        """Let Transfer act for this person on a collection."""
        who, scope = (person or self.setting.person).id, f"{TRANSFER_ALL}[*{collection.data_access}]"
        self.setting.world.consent(who, self.setting.native.id, parse(scope))

    def data(self, *items: tuple[str, str], to: Collection | None = None, **options: Any) -> globus_sdk.TransferData:
        """From the facility, by default to the laptop."""
        destination = self.laptop if to is None else to
        recursive = options.pop("recursive", False)
        external = {name: options.pop(name) for name in ("external_checksum", "checksum_algorithm") if name in options}
        data = globus_sdk.TransferData(self.facility.id, destination.id, **options)
        for source, target in items:
            data.add_item(source, target, recursive=recursive, **external)
        return data

    def send(self, *items: tuple[str, str], **options: Any) -> str:
        """Submit; the task's id."""
        return str(self.client().submit_transfer(self.data(*items, **options))["task_id"])

    def until(self, task: str, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The task's document, as soon as it is as wanted."""
        client, deadline = self.client(), time.monotonic() + WITHIN_S
        while True:
            shown: dict[str, Any] = client.get_task(task).data
            if wanted(shown):
                return shown
            if time.monotonic() > deadline:
                raise AssertionError(f"still {shown}")
            time.sleep(0.02)

    def ended(self, task: str) -> dict[str, Any]:
        """The task's document when it is over."""
        return self.until(task, lambda shown: shown["status"] in ("SUCCEEDED", "FAILED"))

    def codes(self, task: str) -> list[str]:
        """What happened to a task, the oldest first."""
        return [event["code"] for event in self.client().task_event_list(task)][::-1]

    def write(self, path: str, size: int = 1000) -> bytes:
        """A file at the facility."""
        contents = os.urandom(size)
        place = self.facility.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(contents)
        return contents

    def arrived(self, path: str) -> Path:
        """Where a file is on the laptop."""
        return self.laptop.root / path.lstrip("/")


def between(setting: Setting) -> Transfers:
    """Both collections, the consent given."""
    facility = setting.globus.add_collection("facility", setting.person)
    laptop = setting.globus.add_collection("laptop", setting.person, Kind.PERSONAL)
    setting.globus.transfer.queue.retry_s = 0.02
    made = Transfers(setting, facility, laptop)
    made.consent(facility)
    return made
