"""``POST /stand-in/…``: what a test in the same process does to ``World`` and ``Faults``, for all other programs.

Whoever can reach the port can use it, and can sign in as anybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from hpcserve.testing.globus.faults import Faults
from hpcserve.testing.globus.http import Refusal, Request, Response
from hpcserve.testing.globus.records import Client, Person
from hpcserve.testing.globus.transfer_orders import nobody
from hpcserve.testing.globus.world import World

PREFIX = "/stand-in/"
Order = Callable[[dict[str, Any]], dict[str, Any]]


class Steering:
    """Each order is a JSON object; the answer is one too. ``GET /stand-in/asked`` counts what was asked so far.

    Args:
        world: What the orders change.
        faults: What they tell to go wrong.
        more: Orders of others.
    """

    prefixes = (PREFIX,)

    def __init__(self, world: World, faults: Faults, more: Mapping[str, Order]) -> None:
        self._world = world
        self._faults = faults
        self.orders: dict[str, Order] = {
            "people": self._person,
            "sign-in": self._sign_in,
            "groups": self._group,
            "clients": self._client,
            "tokens": self._token,
            "expire": self._expire,
            "revoke": self._revoke,
            "withdraw": self._withdraw,
            "settings": self._set,
            "faults": self._fault,
            **more,
        }

    def answer(self, request: Request) -> Response:
        """See the class.

        Raises:
            Refusal: There is no such order, or a value is missing or wrong.
        """
        name = request.path.removeprefix(PREFIX)
        if (request.method, name) == ("GET", "asked"):
            return Response(200, dict(self._faults.asked))
        if (request.method, name) == ("DELETE", "faults"):
            self._faults.clear()
            return Response(200, {})
        order = self.orders.get(name)
        if order is None or request.method != "POST":
            raise Refusal(404, {"code": "NotFound", "message": f"orders: {', '.join(sorted(self.orders))}"})
        try:
            with self._world.lock:
                return Response(200, order(request.json()))
        except (KeyError, TypeError, ValueError, re.error) as error:
            raise Refusal(400, {"code": "BadRequest", "message": f"{name}: {_said(error)}"}) from error

    def _person(self, order: dict[str, Any]) -> dict[str, Any]:
        """``username``, and if wanted ``second_factor`` and ``linked`` to whom."""
        person = self._world.add_person(order["username"], second_factor=order.get("second_factor", False))
        if "linked" in order:
            self._world.link(person, self._named(order["linked"]))
        return {"id": person.id}

    def _sign_in(self, order: dict[str, Any]) -> dict[str, Any]:
        person = self._named(order["username"])
        self._world.sign_in(person, mfa=order.get("mfa", False))
        return {"id": person.id}

    def _group(self, order: dict[str, Any]) -> dict[str, Any]:
        """A new one by its ``name``, or that with the ``id``: from then on it has these ``members``."""
        world = self._world
        members = [self._named(each) for each in order.get("members", [])]
        group = world.groups[order["id"]] if "id" in order else world.add_group(order["name"])
        group.members = {person.id: "member" for person in members}
        return {"id": group.id}

    def _client(self, order: dict[str, Any]) -> dict[str, Any]:
        """A program by its ``name`` and ``secret``: an identity of its own."""
        client = self._world.add_client(order["name"], secret=str(order["secret"]))
        return {"id": client.id, "username": f"{client.id}@clients.auth.globus.org"}

    def _token(self, order: dict[str, Any]) -> dict[str, Any]:
        """An access token of ``username`` for a ``client`` and a ``scope``; ``by``: the linked one that logged in."""
        client: Client = self._world.clients[order["client"]]
        person = self._named(order["username"])
        by = self._named(order["by"]) if "by" in order else None
        token = self._world.token_for(person, client, order["scope"], mfa=order.get("mfa", False), by=by)
        return {"access_token": token.value}

    def _expire(self, order: dict[str, Any]) -> dict[str, Any]:
        self._world.expire(order["token"])
        return {}

    def _revoke(self, order: dict[str, Any]) -> dict[str, Any]:
        self._world.revoke(order["token"])
        return {}

    def _withdraw(self, order: dict[str, Any]) -> dict[str, Any]:
        """All consents of ``username``, or those for one ``client`` or one ``scope``."""
        person = self._named(order["username"])
        self._world.withdraw(person.id, order.get("client", ""), order.get("scope", ""))
        return {}

    def _set(self, order: dict[str, Any]) -> dict[str, Any]:
        """``lifetime_s`` of new tokens, ``ahead_s`` of the clock, and whether people are ``approving``."""
        kinds = {"lifetime_s": (int, float), "ahead_s": (int, float), "approving": (bool,)}
        for name, value in order.items():
            if type(value) not in kinds[name]:
                raise TypeError(f"{name} is {value!r}")
            setattr(self._world, name, value)
        return {}

    def _fault(self, order: dict[str, Any]) -> dict[str, Any]:
        """``pattern``, and what to do: ``status`` (with ``retry_after_s``, ``after``), ``stall_s``, or ``drop``."""
        pattern, times = order["pattern"], order.get("times", 1)
        if "stall_s" in order:
            self._faults.stall(pattern, order["stall_s"], times=times)
        elif "drop" in order:
            self._faults.drop(pattern, *order["drop"], times=times)
        else:
            retry_after_s, after = order.get("retry_after_s"), order.get("after", False)
            self._faults.add(pattern, order["status"], times=times, retry_after_s=retry_after_s, after=after)
        return {}

    def _named(self, name: str) -> Person:
        person = self._world.find_person(name)
        if person is None:
            raise ValueError(nobody(name))
        return person


def _said(error: Exception) -> str:
    """What is wrong with an order, in words."""
    return f"{error.args[0]!r} is missing, or not known" if isinstance(error, KeyError) else str(error)
