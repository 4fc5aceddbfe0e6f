"""Reading requests, finding who answers, and what faults do to an answer; without sockets."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from hpcserve.testing.globus.faults import Faults, Met, without
from hpcserve.testing.globus.http import Refusal, Request, Response
from hpcserve.testing.globus.routes import Routes


@pytest.mark.parametrize(
    ("header", "basic", "bearer"),
    [
        ("Bearer abc", ("", ""), "abc"),
        ("bearer  abc ", ("", ""), "abc"),
        ("Basic YTpiOmM=", ("a", "b:c"), ""),
        ("Basic YTo=", ("a", ""), ""),
        ("Basic !", ("", ""), ""),
        ("Basic //8=", ("", ""), ""),
        ("", ("", ""), ""),
    ],
)
def test_who_asks(header: str, basic: tuple[str, str], bearer: str) -> None:
    request = Request("GET", "/", headers={"authorization": header})
    assert (request.basic(), request.bearer()) == (basic, bearer)


def test_a_form_and_a_document() -> None:
    assert Request("POST", "/", content=io.BytesIO(b"a=1&b=&a=x%20y")).form() == {"a": "x y", "b": ""}
    assert Request("POST", "/", content=io.BytesIO(b'{"a": [1]}')).json() == {"a": [1]}


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff"])
def test_what_is_no_document(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        Request("POST", "/", content=io.BytesIO(body)).json()
    assert refused.value.response.status == 400


def test_routes_by_method_and_path() -> None:
    routes = Routes(
        ("GET", "/a/([^/]+)", lambda _request, name: Response(200, name)),
        ("PUT", "/a/([^/]+)", lambda _request, name: Response(201, name)),
    )
    assert routes.answer(Request("GET", "/a/b")).body == "b"
    assert routes.answer(Request("PUT", "/a/b")).status == 201
    for method, path, status in (("POST", "/a/b", 405), ("GET", "/a/b/c", 404), ("GET", "/a/", 404)):
        with pytest.raises(Refusal) as refused:
            routes.answer(Request(method, path))
        assert refused.value.response.status == status


def test_the_oldest_fault_comes_first_and_as_often_as_it_was_told() -> None:
    faults = Faults()
    faults.add("GET /a", 502, times=2)
    faults.add("GET /", 429, retry_after_s=7)

    def met(path: str) -> int | None:
        instead = faults.meet(Request("GET", path)).instead
        return instead.status if instead else None

    assert [met("/b"), met("/b"), met("/a"), met("/a"), met("/a")] == [429, None, 502, 502, None]
    assert faults.asked == {"GET /a": 3, "GET /b": 2}


def test_what_a_fault_says() -> None:
    faults = Faults()
    faults.add(".*", 429, retry_after_s=7, body={"code": "Slow"})
    assert faults.meet(Request("GET", "/")) == Met(Response(429, {"code": "Slow"}, {"retry-after": "7"}))


def test_who_is_stalled_goes_on_when_faults_are_cleared() -> None:
    faults = Faults()
    faults.stall("GET /a", 600)
    answers: list[Any] = []
    stalled = threading.Thread(target=lambda: answers.append(faults.meet(Request("GET", "/a"))), daemon=True)
    stalled.start()
    while not faults.asked:
        stalled.join(0.01)
    assert faults.meet(Request("GET", "/a")) == Met()
    assert not answers
    faults.clear()
    stalled.join(60)
    assert answers == [Met()]


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("a", {"b": {"c": 1, "d": 2}}),
        ("b.c", {"a": 1, "b": {"d": 2}}),
        ("b.x", {"a": 1, "b": {"c": 1, "d": 2}}),
        ("a.b.c", {"a": 1, "b": {"c": 1, "d": 2}}),
    ],
)
def test_a_key_is_left_out(path: str, left: dict[str, Any]) -> None:
    document = {"a": 1, "b": {"c": 1, "d": 2}}
    without(document, path)
    assert document == left
