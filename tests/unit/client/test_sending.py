"""Looking on while a result is brought to a collection. What the service says is written down here."""

from __future__ import annotations

import gc
import hashlib
import queue
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import h5py
import msgspec
import numpy as np
import pytest

from hpcserve.client import lookout, sending
from hpcserve.client.call import Inference
from hpcserve.client.fetching import Fetching
from hpcserve.client.landing import Landing
from hpcserve.client.outputs import Outputs
from hpcserve.client.sending import Ask, Sending, Transfer, transfer_of
from hpcserve.errors import (
    Cancelled,
    InvalidInput,
    LoginRequired,
    ProtocolError,
    ServiceUnavailable,
    StagedFileGone,
    TransferFailed,
)
from hpcserve.types import Counter, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.admin import AskTransfers, Deliver, TransferList, TransferView

LAPTOP = "6c54cade-bde5-45c1-bdea-f4bd71dba2cc"
X = np.arange(5.0)
TENSOR = wire.StagedTensor("y", "float64", X.shape, "/y", hashlib.sha256(X.tobytes()).hexdigest())
RESULT = wire.Result(SessionId(b"s"), Counter(1), staged=wire.Staged("/staged/ada/r.h5", 100, (TENSOR,)))


def view(state: str, *, path: str = "/in/r.h5", **more: Any) -> TransferView:
    return TransferView(
        id="t", owner="ada", path="", to=f"globus://{LAPTOP}{path}", state=state, size_bytes=100, asked_s=0.0, **more
    )


def service(answers: Iterable[TransferView | Exception]) -> tuple[Ask, list[Any]]:
    """What is asked, and what it answers, one after the other."""
    left, asked = list(answers), []

    def ask(_verb: str, arguments: Any, _kind: type[Any]) -> TransferList:
        asked.append(arguments)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return TransferList(transfers=(answer,))

    return cast("Ask", ask), asked


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for each in (sending, lookout):
        monkeypatch.setattr(each, "SHORTEST_LOOK_S", 0.001)
        monkeypatch.setattr(each, "LONGEST_LOOK_S", 0.001)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_what_is_offered_is_said_as_soon_as_it_is_known_what_transfer_wants() -> None:
    wanted = {"code": "AuthorizationRequired"}
    ask, asked = service([view("offered"), view("offered", login=wanted, why="wrong domain")])
    seen: list[Transfer] = []
    with pytest.raises(LoginRequired, match=r"submit it yourself \(wrong domain\).*transfers --login") as caught:
        Sending(f"globus://{LAPTOP}/in/", seen=seen.append).send(RESULT, ask)
    assert (caught.value.detail, len(asked), seen[-1].state) == (wanted, 2, "offered")


@pytest.mark.parametrize("state", ["offered", "prepared"])
def test_a_program_is_told_the_command_that_submits_to_where_it_has_said(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(sending, "LOGIN_S", 0.0)
    monkeypatch.setenv("HPCSERVE_CLIENT_ID", "0a0d9b1c-7f1e-4a5b-8c3f-3f5b1f7a9e10")
    monkeypatch.setenv("HPCSERVE_CLIENT_SECRET", "of-nightly")
    to = f"globus://{LAPTOP}/in it/"
    ask, _ = service([view(state, login={"code": "x"}, path="/other/r.h5")] * 5)
    with pytest.raises(LoginRequired) as caught:
        Sending(to).send(RESULT, ask)
    assert f"hpcserve transfers --login --yes --to '{to}'" in caught.value.message


def test_what_a_service_says_in_an_error_steers_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "LOGIN_S", 0.0)
    for state in ("offered", "inactive"):
        ask, _ = service([view(state, login={"code": "x"}, why="fine\x1b[8m")] * 5)
        with pytest.raises(LoginRequired) as caught:
            Sending(f"globus://{LAPTOP}/in/").send(RESULT, ask)
        assert r"(fine\x1b[8m)" in caught.value.message


def test_it_is_asked_for_once_and_looked_at_until_it_has_arrived() -> None:
    moving = view("active", task="g", task_bytes=40, task_bytes_in_all=100, bytes_per_s=30.0, task_files_in_all=1)
    there = view("succeeded", task_bytes=100, task_bytes_in_all=100, task_files=1, task_files_in_all=1)
    ask, asked = service([view("waiting"), moving, ServiceUnavailable("restarted"), there])
    told: list[Transfer] = []
    outputs = Sending(f"globus://{LAPTOP}/in/", keep_login=True, seen=told.append).send(RESULT, ask)
    seen = [each for each in told if not each.away]
    assert asked[0] == Deliver(paths=("/staged/ada/r.h5",), to=f"globus://{LAPTOP}/in/", keep_login=True)
    assert asked[1:] == [AskTransfers(ids=("t",))] * 3
    assert [each.state for each in seen] == ["waiting", "active", "succeeded"]
    assert [(each.moved_bytes, each.files) for each in seen] == [(0, 0), (40, 0), (100, 1)]
    assert (seen[0].eta_s, seen[1].eta_s) == (None, 2.0)
    assert outputs.sent is not None
    assert (dict(outputs), outputs.sent.uri, outputs.sent.path) == ({}, f"globus://{LAPTOP}/in/r.h5", None)


def test_who_goes_on_after_a_login_sees_it_and_so_does_the_future() -> None:
    ask, _ = service([view("succeeded", task_bytes_in_all=100, task_files_in_all=1)])
    seen: list[Transfer] = []
    also: list[Transfer] = []
    Sending(f"globus://{LAPTOP}/in/", seen=seen.append).send(RESULT, ask, also.append)
    assert [each.state for each in seen] == [each.state for each in also] == ["succeeded"]


def test_how_long_it_takes_to_send_something_once_more_nobody_knows() -> None:
    again = transfer_of(view("active", task="g", task_bytes=100, task_bytes_in_all=100, bytes_per_s=30.0))
    assert (again.moved_bytes, again.eta_s) == (100, None)


def test_where_it_does_not_arrive_it_is_said_why() -> None:
    for state, error in (("failed", TransferFailed), ("cancelled", Cancelled)):
        ask, _ = service([view(state, why="Globus Transfer: QUOTA_EXCEEDED: full")])
        with pytest.raises(error, match="QUOTA_EXCEEDED: full; the result is still on the site"):
            Sending(f"globus://{LAPTOP}/in/").send(RESULT, ask)
        ask, _ = service([view(state, why="full", task="g")])
        with pytest.raises(error, match="full; what had moved may lie there, incomplete or damaged: remove it"):
            Sending(f"globus://{LAPTOP}/in/").send(RESULT, ask)


def test_a_login_that_does_not_come_by_itself_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "LOGIN_S", 0.003)
    detail = {"code": "ConsentRequired"}
    soon = [view("inactive"), view("active"), view("succeeded")]
    Sending(f"globus://{LAPTOP}/in/").send(RESULT, service(soon)[0])
    waits = view("waiting", login=detail, why="consent; log in again: hpcserve transfers --login")
    now, first = service([waits] * 100)

    def ask(*arguments: Any) -> Any:
        return now(*arguments)

    sent = Sending(f"globus://{LAPTOP}/in/")
    with pytest.raises(LoginRequired, match="hpcserve transfers --login") as caught:
        sent.send(RESULT, cast("Ask", ask))
    assert caught.value.detail == detail
    assert caught.value.message.endswith("waits for a login (consent); it goes on after: hpcserve transfers --login")
    now, then = service([view("active"), view("succeeded")])
    seen: list[str] = []
    outputs = sent.send(RESULT, now, lambda transfer: seen.append(transfer.state))
    assert outputs.sent is not None
    assert then[0] == first[0], "what is asked for twice is sent once"
    assert seen == ["active", "succeeded"]


@pytest.mark.parametrize("place", ["/~/in/r.h5", "{home}/in/r.h5"])
def test_on_this_machine_it_is_compared_once_more(tmp_path: Path, place: str) -> None:
    known = tmp_path / ".globusonline" / "lta"
    known.mkdir(parents=True)
    (known / "client-id.txt").write_text(f"{LAPTOP}\n")
    (tmp_path / "in").mkdir()
    arrived = view("succeeded", path=place.format(home=tmp_path))
    with h5py.File(tmp_path / "in" / "r.h5", "w") as file:
        file["y"] = X
    outputs = Sending(f"globus://{LAPTOP}/in/").send(RESULT, service([arrived])[0])
    assert np.array_equal(outputs["y"], X)
    with h5py.File(tmp_path / "in" / "r.h5", "w") as file:
        file["y"] = X + 1
    with pytest.raises(TransferFailed):
        Sending(f"globus://{LAPTOP}/in/").send(RESULT, service([arrived])[0])


def test_what_is_no_destination_is_said_before_anything_is_called() -> None:
    with pytest.raises(InvalidInput, match="to="):
        Sending("laptop:/in/")


def call_for(ask: Ask, number: int, *, to: str = f"globus://{LAPTOP}/in/") -> Inference:
    """A call whose result is in a file, and is to be brought to the laptop."""
    call = Inference("echo", X, parameters=None, timeout_s=60.0, priority=0, own=True, sending=Sending(to))
    call.fetching = Fetching()
    call.fetching.ask = ask
    call.staged = msgspec.structs.replace(RESULT, staged=wire.Staged(f"/staged/ada/{number}.h5", 100, (TENSOR,)))
    return call


class Site:
    """A service where nothing arrives before everything was asked for."""

    def __init__(self, number: int, *, bad: str = "", away: int = 0) -> None:
        self.paths: list[str] = []
        self.calls = 0
        self._number, self._bad, self._away = number, bad, away
        self._threads: set[str] = set()

    def ask(self, verb: str, arguments: Any, _kind: type[Any]) -> TransferList:
        self.calls += 1
        self._threads.add(threading.current_thread().name)
        assert len(self._threads) == 1, "one looks for all"
        if self._away:
            self._away -= 1
            raise ServiceUnavailable("restarted")
        if verb == "deliver":
            if self._bad in arguments.paths:
                raise StagedFileGone(f"{self._bad} is gone")
            self.paths += [path for path in arguments.paths if path not in self.paths]
            return TransferList(transfers=tuple(self._view(path, "waiting") for path in arguments.paths))
        state = "succeeded" if len(self.paths) == self._number else "active"
        return TransferList(transfers=tuple(self._view(id, state) for id in arguments.ids))

    def _view(self, path: str, state: str) -> TransferView:
        return msgspec.structs.replace(view(state, path=f"/in/{path.rpartition('/')[2]}"), id=path)


def landed(site: Site, number: int) -> list[Inference]:
    """So many calls, when their results have come or not."""
    landing, settled = Landing(), queue.SimpleQueue[Inference]()
    calls = [call_for(cast("Ask", site.ask), each) for each in range(number)]
    for call in calls:
        landing.land(call, settled.put)
    for _ in calls:
        settled.get(timeout=60.0)
    landing.close()
    return calls


def test_however_many_there_are_all_are_asked_for_before_the_first_has_arrived() -> None:
    site = Site(300)
    calls = landed(site, 300)
    assert [call.outcome().sent.uri for call in calls] == [f"globus://{LAPTOP}/in/{each}.h5" for each in range(300)]
    assert site.calls < 100, "they are looked at together"


def test_one_that_fails_leaves_the_others_alone() -> None:
    calls = landed(Site(9, bad="/staged/ada/7.h5", away=3), 10)
    with pytest.raises(StagedFileGone):
        calls.pop(7).outcome()
    assert all(call.outcome().sent is not None for call in calls)


def test_where_the_service_is_away_no_destination_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "AWAY_S", 1.0)
    landing, settled = Landing(), queue.SimpleQueue[Inference]()
    site = Site(9, away=1 << 30)
    calls = [call_for(cast("Ask", site.ask), each, to=f"globus://{LAPTOP}/{each}/") for each in range(20)]
    began = time.monotonic()
    for call in calls:
        landing.land(call, settled.put)
    for call in [settled.get(timeout=60.0) for _ in calls]:
        with pytest.raises(ServiceUnavailable, match="restarted"):
            call.outcome()
    assert time.monotonic() - began < 20 * 1.0, "each its own time"
    landing.close()


def test_that_the_service_is_away_is_told_while_it_is_asked_again() -> None:
    left: list[TransferView | Exception] = [
        view("active"),
        ServiceUnavailable("no answer about your login"),
        view("succeeded", path="/in/0.h5"),
    ]
    for ways in range(2):
        ask, _ = service(list(left))
        seen: list[tuple[str, str]] = []

        def note(transfer: Transfer, into: list[tuple[str, str]] = seen) -> None:
            into.append((transfer.state, transfer.away))

        if ways:
            Sending(f"globus://{LAPTOP}/in/").send(RESULT, ask, note)
        else:
            landing, settled = Landing(), queue.SimpleQueue[Inference]()
            call = call_for(ask, 0)
            call.sending = Sending(f"globus://{LAPTOP}/in/", seen=note)
            landing.land(call, settled.put)
            settled.get(timeout=60.0).outcome()
            landing.close()
        assert seen == [("active", ""), ("active", "no answer about your login"), ("succeeded", "")]


def test_a_service_that_leaves_some_out_is_told() -> None:
    def ask(_verb: str, _arguments: Any, _kind: type[Any]) -> TransferList:
        return TransferList(transfers=())

    landing, settled = Landing(), queue.SimpleQueue[Inference]()
    landing.land(call_for(cast("Ask", ask), 0), settled.put)
    with pytest.raises(ProtocolError, match="1 transfers were asked about, 0"):
        settled.get(timeout=60.0).outcome()
    landing.close()


def test_a_result_is_not_kept_until_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    landing, settled = Landing(), queue.SimpleQueue[Inference]()
    call = call_for(cast("Ask", Site(1).ask), 0)
    call.sending = None
    monkeypatch.setattr(
        Inference, "bring", lambda _call, _result: Outputs({"y": X}, replica="r", version="v", run_s=0, image="")
    )
    landing.land(call, settled.put)
    held = weakref.ref(settled.get(timeout=60.0).outcome())
    del call

    def is_gone() -> bool:
        gc.collect()
        return held() is None

    deadline = time.monotonic() + 20.0
    while not is_gone():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    landing.close()


def test_what_is_under_way_is_given_up_when_the_client_is_closed() -> None:
    landing, settled = Landing(), queue.SimpleQueue[Inference]()
    landing.land(call_for(cast("Ask", Site(2).ask), 0), settled.put)
    with pytest.raises(queue.Empty):
        settled.get(timeout=0.1)
    landing.close()
    landing.land(call_for(cast("Ask", Site(2).ask), 1), settled.put)
    for _ in range(2):
        with pytest.raises(Cancelled, match="hpcserve transfers"):
            settled.get(timeout=60.0).outcome()


def test_a_result_comes_in_its_message_or_is_brought() -> None:
    where = Sending(f"globus://{LAPTOP}/in/")
    with pytest.raises(InvalidInput, match="give one"):
        Inference("e", X, parameters=None, timeout_s=1.0, priority=0, own=True, reply="inline", sending=where)


def test_a_login_is_kept_for_nothing_but_a_result_that_is_sent() -> None:
    assert Sending.asked(None, keep_login=False) is None
    with pytest.raises(InvalidInput, match="give to="):
        Sending.asked(None, keep_login=True)
