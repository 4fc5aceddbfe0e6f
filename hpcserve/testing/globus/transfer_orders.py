"""Orders of :mod:`steering` about collections and transfers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpcserve.testing.globus.collections import Collections, Kind
from hpcserve.testing.globus.transfer_queue import TransferQueue
from hpcserve.testing.globus.world import World

_NONE, _ANY = type(None), float("-inf")
_YES: tuple[tuple[type, ...], float, str] = (bool,), _ANY, "true or false"
_TROUBLES: dict[str, tuple[tuple[type, ...], float, str]] = {
    **dict.fromkeys(("offline", "gone", "read_only", "stalled", "expired"), _YES),
    "quota_bytes": ((int, _NONE), 0, "a number of bytes, or null: none"),
    "corrupt": ((int,), _ANY, "a number of files, below 0: all"),
    "cut": ((int,), 0, "a number of files"),
    "bytes_per_s": ((int, float, _NONE), 1, "a number from 1 on, or null: none ('stalled' stands still)"),
    "fatal": ((str, _NONE), _ANY, "a code of Globus's, or null: none"),
    "required_scopes": ((list,), _ANY, "a list of scopes"),
    "authorization_parameters": ((dict, _NONE), _ANY, "an object, or null: none"),
}
"""The types of each trouble, the least that it may be, and that in words."""
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
        _set(trouble, told, sorted(_TROUBLES), _check)
        return {}

    def queued(order: dict[str, Any]) -> dict[str, Any]:
        _set(queue, order, QUEUE)
        return {}

    return {"collections": opened, "trouble": troubled, "transfers": queued}


def nobody(name: object) -> str:
    """What is said where nobody has this name."""
    return f"nobody is called {name!r}; the orders 'people' and 'clients' make somebody"


def _check(name: str, value: object) -> None:
    """Whether the trouble of this name can be so.

    Raises:
        ValueError: It cannot.
    """
    kinds, least, said = _TROUBLES[name]
    if type(value) not in kinds or (isinstance(value, int | float) and value < least):
        raise ValueError(f"{name}: expected {said}, got {value!r}")


def _set(
    what: object,
    values: dict[str, Any],
    known: list[str] | tuple[str, ...],
    check: Callable[[str, object], None] = lambda _name, _value: None,
) -> None:
    if unknown := sorted(values.keys() - set(known)):
        raise ValueError(f"{', '.join(unknown)}: expected {', '.join(known)}")
    for name, value in values.items():
        check(name, value)
    for name, value in values.items():
        setattr(what, name, value)
