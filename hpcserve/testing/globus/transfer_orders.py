"""Orders of :mod:`steering` about collections and transfers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from hpcserve.testing.globus.collections import Collections, Kind, Trouble
from hpcserve.testing.globus.transfer_queue import TransferQueue
from hpcserve.testing.globus.world import World

QUEUE = ("retry_s", "checksum_faults", "active_per_owner", "pending_per_owner", "submission_s")


def transfer_orders(
    world: World, collections: Collections, queue: TransferQueue
) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    """What can be ordered of Transfer, by name. Raises as the orders of :class:`steering.Steering` do."""

    def opened(order: dict[str, Any]) -> dict[str, Any]:
        owner = world.find_person(order["owner"])
        if owner is None:
            raise ValueError(nobody(order["owner"]))
        kind, root = Kind[order.get("kind", "mapped").upper()], order.get("root")
        made = collections.open(order["name"], owner.id, kind, root=root and Path(root), host=order.get("host"))
        made.domain = order.get("domain", "")
        return {"id": made.id, "root": str(made.root)}

    def troubled(order: dict[str, Any]) -> dict[str, Any]:
        told = {name: value for name, value in order.items() if name != "collection"}
        trouble = collections[order["collection"]].trouble
        _set(trouble, told, [field.name for field in fields(Trouble)])
        return {}

    def queued(order: dict[str, Any]) -> dict[str, Any]:
        _set(queue, order, QUEUE)
        return {}

    return {"collections": opened, "trouble": troubled, "transfers": queued}


def nobody(name: object) -> str:
    """What is said where nobody has this name."""
    return f"nobody is called {name!r}; the orders 'people' and 'clients' make somebody"


def _set(what: object, values: dict[str, Any], known: list[str] | tuple[str, ...]) -> None:
    if unknown := sorted(values.keys() - set(known)):
        raise ValueError(f"{', '.join(unknown)}: expected {', '.join(known)}")
    for name, value in values.items():
        setattr(what, name, value)
