"""What follows from who has raised in a collective call: the next one must not receive what this one has sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pytest

from hpcserve.errors import HpcserveError, InvalidInput, InvalidOutput, ServableError
from hpcserve.replica import collective
from hpcserve.replica.collective import Collective
from hpcserve.replica.guard import Guard
from hpcserve.replica.mpi import World
from hpcserve.replica.told import failure_of
from hpcserve.servable.loaded import Loaded, Method
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.wire.frames import decoder, encode
from hpcserve.wire.ranks import Answer, Close, Done, Next, Order, Renew, Whole

ERRORS = {"raises": ServableError("it cannot"), "refuses": InvalidInput("no"), "is odd": InvalidOutput("of float32")}
Y = TensorDecl(name="y", dtype="int64", shape=(-1,))
_decode = decoder(Order)


class Others:
    """Two ranks that do, at each call, as the test says."""

    size = 3

    def __init__(self) -> None:
        self.do = ("returns", "returns")
        self.orders: list[type] = []
        self.renewed = 0
        self.waiting: list[tuple[int, bytes]] = []

    def tell_all(self, message: bytes) -> None:
        order = _decode(message)
        self.orders.append(type(order))
        if isinstance(order, Whole | Next):
            self.waiting = [(rank, encode(_answer(what))) for rank, what in enumerate(self.do, start=1)]
        elif isinstance(order, Close):
            self.waiting = [(rank, encode(Done())) for rank in (1, 2)]

    def next_answer(self) -> tuple[int, bytes] | None:
        return self.waiting.pop(0) if self.waiting else None

    def renew(self) -> None:
        self.renewed += 1


def _answer(what: str) -> Answer:
    return Done() if what == "returns" else failure_of(ERRORS[what])


class Group:
    """Rank 0 of three, and what it is to do."""

    def __init__(self) -> None:
        self.others = Others()
        self.does = "returns"
        methods = {
            "go": Method(MethodSpec(inputs=(), outputs=(Y,)), self._go),
            "flow": Method(MethodSpec(inputs=(), outputs=(Y,), stream=True), self._flow),
        }
        self.all = Collective(Loaded(methods), cast("World", self.others), Guard(1000.0, may_look=False))

    def _go(self, _inputs: Mapping[str, Any], _parameters: Mapping[str, Any]) -> object:
        if self.does in ("raises", "refuses"):
            raise ERRORS[self.does]
        return np.zeros(1, np.float32 if self.does == "is odd" else np.int64)

    def _flow(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[object]:
        while True:
            yield self._go(inputs, parameters)

    def call(self, *do: str) -> None:
        self.does, self.others.do = do[0], (do[1], do[2])
        self.all.run("go", {}, {})


@pytest.mark.parametrize(
    ("do", "becomes"),
    [
        (("raises", "returns", "returns"), "it ends"),
        (("returns", "raises", "returns"), "it ends"),
        (("raises", "raises", "returns"), "it ends"),
        (("is odd", "returns", "raises"), "it ends"),
        (("raises", "raises", "raises"), "another communicator"),
        (("refuses", "refuses", "refuses"), "another communicator"),
        (("is odd", "returns", "returns"), "as before"),
        (("is odd", "is odd", "is odd"), "as before"),
    ],
)
def test_what_becomes_of_a_group(do: tuple[str, str, str], becomes: str) -> None:
    group = Group()
    with pytest.raises(HpcserveError) as raised:
        group.call(*do)
    assert (group.all.broken is raised.value) == (becomes == "it ends")
    assert group.others.orders.count(Renew) == group.others.renewed == (becomes == "another communicator")
    if becomes == "it ends":
        with pytest.raises(HpcserveError) as again:
            group.call("returns", "returns", "returns")
        assert again.value is raised.value
        assert group.others.orders == [Whole], "the others are called no more"
    else:
        group.call("returns", "returns", "returns")


def test_while_a_stream_is_open_that_has_the_communicator_there_is_no_other() -> None:
    group = Group()
    stream = group.all.stream("flow", {}, {})
    stream.next()
    with pytest.raises(ServableError):
        group.call("raises", "raises", "raises")
    assert group.all.broken is not None
    stream.close()
    assert Close not in group.others.orders, "the ranks are called no more"


def test_a_stream_that_raises_on_all_ranks_itself_keeps_the_group() -> None:
    group = Group()
    stream = group.all.stream("flow", {}, {})
    group.does, group.others.do = "raises", ("raises", "raises")
    with pytest.raises(ServableError):
        stream.next()
    stream.close()
    assert (group.all.broken, group.others.renewed) == (None, 1)
    with pytest.raises(ServableError):
        group.call("raises", "raises", "raises")
    assert (group.all.broken, group.others.renewed) == (None, 2), "it is not open any more"


def test_communicators_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collective, "MOST_RENEWED", 3)
    group = Group()
    for most in (1, 2, 3, 3):
        assert group.all.broken is None
        with pytest.raises(ServableError):
            group.call("raises", "raises", "raises")
        assert group.others.renewed == most
    assert group.all.broken is not None
