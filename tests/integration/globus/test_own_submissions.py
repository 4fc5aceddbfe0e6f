"""Transfers that a service may not submit, on a collection of high assurance: their owners do, once, whoever dies when.

With the real globus_sdk and the loopback stand-in, as the calls of the controller and the client's part of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import msgspec
import pytest

from hpcserve.cli.consent import agreement
from hpcserve.client import submitting
from hpcserve.client.sending import Ask
from hpcserve.client.submitting import Submitter
from hpcserve.core.delivery import End
from hpcserve.daemon.audit import audit_path
from hpcserve.daemon.controller import transferring
from hpcserve.daemon.controller.guard import Asking, Guard
from hpcserve.daemon.controller.transferring import limits_of
from hpcserve.errors import (
    AuthenticationError,
    Cancelled,
    Conflict,
    HpcserveError,
    InvalidInput,
    LoginRequired,
    NotFound,
    PermissionDenied,
    ProtocolError,
    ServiceUnavailable,
    TransferFailed,
)
from hpcserve.registry.store import Store
from hpcserve.staging.transfer import GlobusTransfer
from hpcserve.testing.globus.browser import log_in
from hpcserve.testing.globus.collections import Collection, Kind
from hpcserve.testing.globus.records import TRANSFER_ALL, Person
from hpcserve.wire.admin import AskSubmission, CancelTransfer, Deliver, Submission, Submitted, TransferView
from tests.integration.globus.delivering import WITHIN_S
from tests.integration.globus.test_transferring import Stage, staged_service
from tests.integration.globus.transfers import Transfers

SUBMIT = "POST /v0.10/transfer"
OTHER = "00000000-0000-4000-8000-000000000000"


class Page:
    """A person who logs in wherever a client asks for it."""

    def __init__(self, transfers: Transfers) -> None:
        self._ca = transfers.setting.ca
        self.asked: list[str] = []
        self.reasons: list[str] = []
        self.addresses: list[str] = []

    def code(self, address: str, why: str, scope: str) -> str:
        self.asked.append(scope)
        self.reasons.append(why)
        self.addresses.append(unquote(address))
        return log_in(address, self._ca)

    def interrupt(self) -> None:
        """Nothing waits."""


class Reader:
    """What somebody is shown, and says to it: yes, but for the last of so many ``answers``."""

    def __init__(self, answers: int = 0) -> None:
        self.shown: list[str] = []
        self.named: list[bool] = []
        self._answers = answers

    def __call__(self, told: str, *, is_named: bool) -> bool:
        self.shown.append(told)
        self.named.append(is_named)
        return len(self.shown) != self._answers


@pytest.fixture
def vault(transfers: Transfers) -> Collection:
    """Ada's, of high assurance: it takes nobody's dependent tokens."""
    made = transfers.setting.globus.add_collection("vault", transfers.setting.person, Kind.GUEST)
    made.domain = "lab.example"
    return made


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "LONGEST_LOOK_S", 0.01)


async def until(stage: Stage, person: Person, wanted: Callable[[TransferView], object]) -> TransferView:
    async with asyncio.timeout(WITHIN_S):
        while not wanted(seen := (await stage.look(person))[0]):
            await asyncio.sleep(0.02)
    return seen


async def offered(stage: Stage, person: Person, vault: Collection, *names: str) -> TransferView:
    """What is refused to the service before and after the login that it asks for."""
    paths, to = [stage.staged(person, name) for name in names or ("r.h5",)], f"globus://{vault.id}/in/"
    [view, *_] = await stage.deliver(person, *paths, to=to)
    first = await until(stage, person, lambda seen: seen.login is not None)
    assert first.state == "prepared"
    await stage.transferring.deliver(Deliver(paths=(view.path,), to=view.to), stage.asking(person, "-anew"))
    return await until(stage, person, lambda seen: seen.state == "offered" and seen.login is not None)


@asynccontextmanager
async def offering(transfers: Transfers, vault: Collection, place: Path) -> AsyncIterator[tuple[Stage, TransferView]]:
    """A service that has offered a transfer to its owner."""
    async with staged_service(transfers, place) as stage:
        yield stage, await offered(stage, transfers.setting.person, vault)


def asked_by(stage: Stage, person: Person) -> Ask:
    """The calls of somebody, from another thread; each is carried out in the loop of the service."""
    loop = asyncio.get_running_loop()
    verbs: dict[str, Any] = {
        "submission": stage.transferring.submissions.submission,
        "submitted": stage.transferring.submissions.submitted,
        "not-submitted": stage.transferring.submissions.not_submitted,
        "transfers": stage.transferring.transfers,
    }

    def ask(verb: str, arguments: Any, _answer: type[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(verbs[verb](arguments, stage.asking(person, "-anew")), loop).result(
            WITHIN_S
        )

    return cast("Ask", ask)


def own(transfers: Transfers, person: Person) -> GlobusTransfer:
    """Transfer, by a person's own login."""
    token = transfers.setting.world.token_for(person, transfers.setting.native, TRANSFER_ALL)
    return GlobusTransfer(token.value, deadline_s=3600.0)


def ends(order: Submission) -> Sequence[tuple[End, End]]:
    return [(End(order.source, start), End(order.target, end)) for start, end in order.items]


def tasks(transfers: Transfers) -> int:
    return len(transfers.setting.globus.transfer.queue.of(transfers.setting.person.id))


def test_asking_again_by_the_login_that_was_refused_offers_nothing(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path) as stage:
            to = f"globus://{vault.id}/in/"
            for _ in range(2):
                await stage.deliver(ada, stage.staged(ada), to=to)
                assert (await until(stage, ada, lambda seen: seen.login is not None)).state == "prepared"
            await offered(stage, ada, vault)

    asyncio.run(scenario())


def test_its_owner_submits_what_the_service_may_not(transfers: Transfers, vault: Collection, tmp_path: Path) -> None:
    async def scenario() -> None:
        ada, page, reader = transfers.setting.person, Page(transfers), Reader()
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault, "r.h5", "s.h5")
            assert "None of your authenticated identities" in view.why
            submitter = Submitter(asked_by(stage, ada), page, reader, print)
            await asyncio.to_thread(submitter.submit, view.id, view.to.removesuffix("r.h5"))
            await until(stage, ada, lambda seen: seen.state == "succeeded")
            # The next one is offered at once, and the same login does.
            third = stage.staged(ada, "t.h5")
            [third_view] = await stage.deliver(ada, third, to=f"globus://{vault.id}/in/")
            async with asyncio.timeout(WITHIN_S):
                while (await stage.look(ada))[2].login is None:
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(submitter.submit, third_view.id, third_view.to)
            await asyncio.to_thread(submitter.submit, third_view.id, third_view.to)  # it is submitted: nothing is done
            async with asyncio.timeout(WITHIN_S):
                while len(stage.arrived) < 3:
                    await asyncio.sleep(0.02)
        assert page.asked == [""], "one login, and none of the service's"
        assert "access_type=online" in page.addresses[0], "which ends by itself"
        assert f"globus://{vault.id}/in/s.h5" in reader.shown[0]
        assert (tasks(transfers), len(reader.shown), reader.named) == (2, 2, [True, True]), "asked for each"
        assert sorted(each.name for each in (vault.root / "in").iterdir()) == ["r.h5", "s.h5", "t.h5"]
        shown = transfers.client().task_list()["DATA"]
        assert all(each["verify_checksum"] for each in shown)

    asyncio.run(scenario())


@pytest.mark.parametrize("prompt", ["the question", "the login"])
def test_what_nobody_agrees_to_or_logs_in_for_was_not_handed_out(
    transfers: Transfers, vault: Collection, tmp_path: Path, prompt: str
) -> None:
    class Gone(Page):
        def code(self, address: str, why: str, scope: str) -> str:
            raise Cancelled("Ctrl-C")

    async def scenario() -> None:
        ada, said_no = transfers.setting.person, Reader(answers=1)
        error: type[Exception] = PermissionDenied if prompt == "the question" else Cancelled
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            reader = said_no if prompt == "the question" else Reader()
            submitter = Submitter(asked_by(stage, ada), Gone(transfers), reader, print)
            with pytest.raises(error):
                await asyncio.to_thread(submitter.submit, view.id, view.to)
            told = await stage.transferring.cancel(CancelTransfer(id=view.id), stage.asking(ada))
            assert [each.state for each in told.transfers] == ["cancelled"], "nobody can be about to submit it"
            order = AskSubmission(id=view.id, look=True)
            with pytest.raises(Conflict):
                await stage.transferring.submissions.submission(order, stage.asking(ada))
        assert transfers.setting.globus.faults.asked["GET /v0.10/task_list"] == 0
        lines = [json.loads(each) for each in audit_path(stage.site.state_dir, "controller").read_text().splitlines()]
        assert "submit" not in [each["action"] for each in lines]

    asyncio.run(scenario())


@pytest.mark.parametrize("change", [{"submission": OTHER}, {"submission": ""}])
def test_an_id_that_comes_before_the_yes_or_not_at_all_is_not_submitted_with(
    transfers: Transfers, vault: Collection, tmp_path: Path, change: dict[str, Any]
) -> None:
    async def scenario() -> None:
        ada, page = transfers.setting.person, Page(transfers)
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            submitter = Submitter(lying(asked_by(stage, ada), change), page, Reader(), print)
            with pytest.raises(ProtocolError):
                await asyncio.to_thread(submitter.submit, view.id, view.to)
        assert tasks(transfers) == 0

    asyncio.run(scenario())


def test_a_program_submits_by_its_secret(
    transfers: Transfers, vault: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = transfers.setting.world.add_client("nightly", secret="of-nightly")
    monkeypatch.setenv("HPCSERVE_CLIENT_ID", client.id)
    monkeypatch.setenv("HPCSERVE_CLIENT_SECRET", "of-nightly")
    program = transfers.setting.world.people[client.id]
    vault.domain, vault.owner = program.domain, program.id

    async def scenario() -> None:
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, program, vault)
            submitter = Submitter(asked_by(stage, program), None, Reader(), print)
            await asyncio.to_thread(submitter.submit, view.id, view.to)
            await until(stage, program, lambda seen: seen.state == "succeeded")

    asyncio.run(scenario())


def test_what_cannot_be_submitted_just_now_is_an_error_and_what_need_not_be_is_none(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ada, page, said = transfers.setting.person, Page(transfers), list[str]()
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault, "r.h5", "s.h5")
            other = (await stage.look(ada))[1]
            await stage.transferring.submissions.submission(AskSubmission(id=view.id), stage.asking(ada))
            await stage.transferring.cancel(CancelTransfer(id=other.id), stage.asking(ada))
            submitter = Submitter(asked_by(stage, ada), page, Reader(), said.append)
            with pytest.raises(Conflict, match=f"{view.id} starts anew, since one that travels with it was cancelled"):
                await asyncio.to_thread(submitter.submit, view.id, view.to)
            assert not said
            await asyncio.to_thread(submitter.submit, other.id, other.to)
            assert said == [f"transfer {other.id} is cancelling, and not its owner's to submit"]
        assert page.asked == []

    asyncio.run(scenario())


def test_nobody_submits_or_reports_for_another(transfers: Transfers, vault: Collection, tmp_path: Path) -> None:
    async def scenario() -> None:
        ada, bob = transfers.setting.person, transfers.setting.world.add_person("bob@lab.example")
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            calls = stage.transferring.submissions
            transfers.write("/own.h5")
            transfers.consent(transfers.facility, bob)
            other = End(transfers.facility.id, "/own.h5"), End(transfers.laptop.id, "/own.h5")
            of_bob = own(transfers, bob)
            bobs = of_bob.submit(of_bob.submission_id(), [other])
            for id in (view.id, "none"):
                with pytest.raises(NotFound):
                    await calls.submission(AskSubmission(id=id), stage.asking(bob))
                with pytest.raises(NotFound):
                    await calls.submitted(Submitted(id=id, submission=OTHER, task=bobs), stage.asking(bob))
            mine = own(transfers, ada)
            another = mine.submit(mine.submission_id(), [other])
            for task in ("", "../task_list"):
                with pytest.raises(InvalidInput):
                    await calls.submitted(Submitted(id=view.id, submission=OTHER, task=task), stage.asking(ada))
            for task in (bobs, another, "00000000-0000-4000-8000-000000000000"):
                with pytest.raises(PermissionDenied):
                    await calls.submitted(Submitted(id=view.id, submission=OTHER, task=task), stage.asking(ada))
            assert (await stage.look(ada))[0].task == ""
            order = await calls.submission(AskSubmission(id=view.id), stage.asking(ada))
            assert (order.within_s, order.consents) == (30.0, ()), "half of the time that the service waits"
            task = mine.submit(order.submission, ends(order))
            report = Submitted(id=view.id, submission=order.submission, task=task)
            for _ in range(2):
                [told] = (await calls.submitted(report, stage.asking(ada))).transfers
                assert told.task == task
            with pytest.raises(PermissionDenied):
                await calls.submitted(msgspec.structs.replace(report, task=another), stage.asking(ada))
            with pytest.raises(Conflict):
                await calls.submission(AskSubmission(id=view.id), stage.asking(ada))
            await until(stage, ada, lambda seen: seen.state == "succeeded")
        lines = [json.loads(each) for each in audit_path(stage.site.state_dir, "controller").read_text().splitlines()]
        noted = [(each["name"], each["allowed"]) for each in lines if each["action"] == "submit"]
        assert noted == [(bob.username, False)] * 4 + [(ada.username, False)] * 3 + [
            (ada.username, True),
            (ada.username, False),
        ]

    asyncio.run(scenario())


def test_a_mapped_collection_of_the_site_takes_a_consent_of_its_own(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ada, mapped = transfers.setting.person, transfers.facility
        async with staged_service(transfers, tmp_path, scopes=f"[{TRANSFER_ALL}]", mapped=mapped) as stage:
            transfers.consent(mapped, ada)
            view = await offered(stage, ada, vault)
            order = await stage.transferring.submissions.submission(AskSubmission(id=view.id), stage.asking(ada))
            page, reader = Page(transfers), Reader()
            submitter = Submitter(asked_by(stage, ada), page, reader, print)
            await asyncio.to_thread(submitter.submit, view.id, view.to)
        assert order.consents == (order.source,) == (mapped.id,)
        assert f"{mapped.id}/data_access" in page.addresses[0], "which the login for it asks for, too"

    asyncio.run(scenario())


def test_who_is_killed_before_the_report_is_found_out_by_the_service(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            order = await stage.transferring.submissions.submission(AskSubmission(id=view.id), stage.asking(ada))
            task = own(transfers, ada).submit(order.submission, ends(order))
            assert (await until(stage, ada, lambda seen: seen.state == "succeeded")).task == task
        assert tasks(transfers) == 1

    asyncio.run(scenario())


def test_the_login_ends_with_the_command(transfers: Transfers, vault: Collection, tmp_path: Path) -> None:
    def own_tokens() -> list[bool]:
        world, native = transfers.setting.world, transfers.setting.native
        return [each.active for each in world.tokens.values() if each.client_id == native.id]

    async def scenario() -> None:
        ada, page, said = transfers.setting.person, Page(transfers), list[str]()
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            before = sum(own_tokens())
            with Submitter(asked_by(stage, ada), page, Reader(), said.append) as submitter:
                await asyncio.to_thread(submitter.submit, view.id, view.to)
                assert sum(own_tokens()) > before
            assert sum(own_tokens()) == before
            await until(stage, ada, lambda seen: seen.state == "succeeded")
        assert said == []

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [True, False])
def test_an_answer_that_is_lost_makes_no_second_task(
    transfers: Transfers, vault: Collection, tmp_path: Path, *, after: bool
) -> None:
    async def scenario() -> None:
        ada, page = transfers.setting.person, Page(transfers)
        async with offering(transfers, vault, tmp_path) as (stage, view):
            transfers.setting.globus.faults.add(SUBMIT, 503, times=2, after=after)
            submitter = Submitter(asked_by(stage, ada), page, Reader(), print)
            await asyncio.to_thread(submitter.submit, view.id, view.to)
            await until(stage, ada, lambda seen: seen.state == "succeeded")
        assert (tasks(transfers), page.asked) == (1, [""])

    asyncio.run(scenario())


def lying(ask: Ask, *changes: dict[str, Any]) -> Ask:
    """A service that says each of these of a transfer, one after the other, and then the last again and again."""
    left = list(changes)

    def told(verb: str, arguments: Any, answer: type[Any]) -> Any:
        said = ask(verb, arguments, answer)
        if verb != "submission":
            return said
        return msgspec.structs.replace(said, **(left.pop(0) if len(left) > 1 else left[0]))

    return cast("Ask", told)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"target": OTHER}, PermissionDenied),
        ({"items": (("/r.h5", "/~/.bashrc"),)}, PermissionDenied),
        ({"items": (("/r.h5", "/in/../.bashrc"),)}, ProtocolError),
        ({"items": (("/~/", "/in/home/"),)}, ProtocolError),
        ({"items": (("/r.h5", "/in/\x1b[2K"),)}, ProtocolError),
        ({"items": ()}, ProtocolError),
        ({"deadline_s": 1e9}, ProtocolError),
        ({"deadline_s": 0.0}, ProtocolError),
        ({"items": (("r.h5", "/in/r.h5"),)}, ProtocolError),
        ({"source": "../x"}, ProtocolError),
        ({"target": "../x"}, ProtocolError),
        ({"submission": "x"}, ProtocolError),
    ],
)
def test_what_its_owner_did_not_name_is_neither_shown_nor_submitted(
    transfers: Transfers, vault: Collection, tmp_path: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    async def scenario() -> None:
        ada, page, reader = transfers.setting.person, Page(transfers), Reader()
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            submitter = Submitter(lying(asked_by(stage, ada), change), page, reader, print)
            for to in (view.to, view.to.removesuffix("r.h5")):
                with pytest.raises(error):
                    await asyncio.to_thread(submitter.submit, view.id, to)
        assert (tasks(transfers), page.asked, reader.shown) == (0, [], [])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "change", [{"target": OTHER}, {"source": OTHER}, {"items": (("/s.h5", "/in/r.h5"),)}, {"deadline_s": 5.0}]
)
def test_what_changes_after_it_was_agreed_to_is_shown_and_asked_for_anew(
    transfers: Transfers, vault: Collection, tmp_path: Path, change: dict[str, Any]
) -> None:
    async def scenario() -> None:
        ada, page, reader = transfers.setting.person, Page(transfers), Reader(answers=2)
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            submitter = Submitter(lying(asked_by(stage, ada), {}, change), page, reader, print)
            with pytest.raises(PermissionDenied, match="nobody agreed"):
                await asyncio.to_thread(submitter.submit, view.id, None)
        assert (tasks(transfers), page.asked, reader.named) == (0, [""], [False, False])

    asyncio.run(scenario())


def test_all_that_is_to_be_submitted_is_shown_in_what_can_be_printed(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ada, page, reader = transfers.setting.person, Page(transfers), Reader(answers=2)
        many = tuple((f"/{number}.h5", f"/in/{number}.h5") for number in range(12))
        change: dict[str, Any] = {
            "items": (*many, ("/r.h5", "/in/r.h5"), ("/x", "/~/.ssh/keys"), ("/.x", "/in/.x")),
            "why": "fine\x1b[1A\nor not",
        }
        change |= {"consents": (OTHER,)}
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            ask = asked_by(stage, ada)
            login = (await asyncio.to_thread(ask, "submission", AskSubmission(id=view.id), Submission)).login
            scopes = [f"{login['scope']}[{TRANSFER_ALL}[*https://auth.globus.org/scopes/{OTHER}/data_access]]"]
            change["login"] = {**login, "authorization_parameters": {"required_scopes": scopes}}
            submitter = Submitter(lying(ask, change, {}), page, reader, print)
            with pytest.raises(PermissionDenied, match="nobody agreed"):
                await asyncio.to_thread(submitter.submit, view.id, view.to.removesuffix("r.h5"))
        [first, *_] = reader.shown
        above, below = first.split("elsewhere than to")
        assert above.count(" to globus://") == 13
        assert [each.partition(" to ")[2] for each in below.splitlines()[1:]] == [
            f"globus://{vault.id}/~/.ssh/keys",
            f"globus://{vault.id}/in/.x",
        ]
        assert first.splitlines()[0].endswith("(fine\\x1b[1A\\nor not):")
        assert reader.named == [False, True]
        assert OTHER not in page.addresses[0]

    asyncio.run(scenario())


def test_nothing_is_handed_out_that_cannot_be_written_down(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    def write_nothing(store: Store) -> None:
        with store.transaction() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")

    async def scenario() -> None:
        ada = transfers.setting.person
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            await stage.storage.do(write_nothing)
            with pytest.raises(HpcserveError, match="the store .* fails"):
                await stage.transferring.submissions.submission(AskSubmission(id=view.id), stage.asking(ada))

    asyncio.run(scenario())


def test_what_was_handed_out_too_long_ago_is_not_submitted(
    transfers: Transfers, vault: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        ada, page = transfers.setting.person, Page(transfers)
        async with offering(transfers, vault, tmp_path) as (stage, view):
            monkeypatch.setattr(submitting, "AWAY_S", 0.5)
            monkeypatch.setattr(submitting, "LONGEST_LOOK_S", 0.25)
            lies, asked = lying(asked_by(stage, ada), {"within_s": 0.0}), list[str]()

            def counted(verb: str, arguments: Any, answer: type[Any]) -> Any:
                asked.append(verb)
                return lies(verb, arguments, answer)

            submitter = Submitter(cast("Ask", counted), page, Reader(), print)
            with pytest.raises(ServiceUnavailable, match="takes too long"):
                await asyncio.to_thread(submitter.submit, view.id, view.to)
        assert tasks(transfers) == 0
        assert len(asked) <= 5, "not without a pause"

    asyncio.run(scenario())


def test_nobody_logs_in_again_and_again(
    transfers: Transfers, vault: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        ada, page = transfers.setting.person, Page(transfers)
        async with offering(transfers, vault, tmp_path) as (stage, view):
            monkeypatch.setattr(submitting, "MOST_LOGINS", 1)
            vault.trouble.required_scopes = [f"{TRANSFER_ALL}[*https://auth.globus.org/scopes/{vault.id}/data_access]"]
            submitter = Submitter(asked_by(stage, ada), page, Reader(), print)
            with pytest.raises(AuthenticationError, match="one login after the other"):
                await asyncio.to_thread(submitter.submit, view.id, view.to)
        assert (page.asked, tasks(transfers)) == ([""], 0)

    asyncio.run(scenario())


def test_a_further_login_is_had_where_globus_wants_it_and_a_useless_one_once(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    consent = f"{TRANSFER_ALL}[*https://auth.globus.org/scopes/{vault.id}/data_access]"

    async def scenario() -> None:
        ada, page = transfers.setting.person, Page(transfers)
        async with offering(transfers, vault, tmp_path) as (stage, view):
            with pytest.raises(LoginRequired, match="hpcserve transfers --login"):
                await asyncio.to_thread(Submitter(asked_by(stage, ada), None, Reader(), print).submit, view.id, view.to)
            vault.trouble.required_scopes = [consent]
            submitter = Submitter(asked_by(stage, ada), page, Reader(), print)
            with pytest.raises(AuthenticationError, match="your own login does not do either.*stays offered.*--cancel"):
                await asyncio.to_thread(submitter.submit, view.id, view.to)
            assert page.asked == ["", ""]
            first, second = page.reasons
            assert first == submitting.FOR_TRANSFER
            assert second.endswith(f"; {first}")
            assert "ConsentRequired" in second, "why one was not enough"
            vault.trouble.required_scopes = []
            await asyncio.to_thread(submitter.submit, view.id, view.to)
            await until(stage, ada, lambda seen: seen.state == "succeeded")

    asyncio.run(scenario())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that waits a second for owners, and not a minute."""
    monkeypatch.setattr(transferring, "limits_of", lambda site: limits_of(site)._replace(hand_s=1.0))


@pytest.mark.usefixtures("impatient")
def test_what_globus_does_not_take_from_its_owner_either_is_given_up(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ada, page = transfers.setting.person, Page(transfers)
        async with offering(transfers, vault, tmp_path) as (stage, view):
            submitter = Submitter(asked_by(stage, ada), page, Reader(), print)
            transfers.setting.globus.faults.add(SUBMIT, 400, body={"code": "ClientError", "message": "no"})
            with pytest.raises(TransferFailed, match="refused to you"):
                await asyncio.to_thread(submitter.submit, view.id, view.to)
            ended = await until(stage, ada, lambda seen: seen.state == "failed")
            assert ended.why == "Globus Transfer: ClientError: no; it was refused to its owner, too"

    asyncio.run(scenario())


@pytest.mark.usefixtures("impatient")
def test_an_id_that_globus_does_not_take_from_its_owner_is_replaced(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ada, page, queue = transfers.setting.person, Page(transfers), transfers.setting.globus.transfer.queue
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            submitter, before = Submitter(asked_by(stage, ada), page, Reader(), print), queue.submission_s
            queue.submission_s = 0.0
            await asyncio.to_thread(submitter.submit, view.id, view.to)
            assert tasks(transfers) == 0
            queue.submission_s = before
            await until(stage, ada, lambda seen: seen.state == "offered" and seen.login is not None)
            await asyncio.to_thread(submitter.submit, view.id, view.to)
            await until(stage, ada, lambda seen: seen.state == "succeeded")
        assert (tasks(transfers), page.asked) == (1, [""])

    asyncio.run(scenario())


@pytest.mark.usefixtures("impatient")
def test_who_submits_too_late_cancels_it(transfers: Transfers, vault: Collection, tmp_path: Path) -> None:
    """As a laptop does that sleeps between the two."""

    async def scenario() -> None:
        ada, page, said = transfers.setting.person, Page(transfers), list[str]()
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)
            ask, loop = asked_by(stage, ada), asyncio.get_running_loop()

            async def cancelled() -> None:
                await stage.transferring.cancel(CancelTransfer(id=view.id), stage.asking(ada))
                await until(stage, ada, lambda seen: seen.state == "cancelled")

            def sleepy(verb: str, arguments: Any, answer: type[Any]) -> Any:
                answered = ask(verb, arguments, answer)
                if verb == "submission" and page.asked:
                    asyncio.run_coroutine_threadsafe(cancelled(), loop).result(WITHIN_S)
                    return msgspec.structs.replace(answered, within_s=WITHIN_S)
                return answered

            vault.trouble.stalled = True
            submitter = Submitter(cast("Ask", sleepy), page, Reader(), said.append)
            await asyncio.to_thread(submitter.submit, view.id, view.to)
        [task] = transfers.client().task_list()["DATA"]
        assert (task["status"], said[0][-15:]) == ("FAILED", "it is cancelled")

    asyncio.run(scenario())


def test_what_is_handed_out_says_what_was_wanted_though_the_service_is_told_to_try_again_meanwhile(
    transfers: Transfers, vault: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        ada, note = transfers.setting.person, Guard.note
        async with staged_service(transfers, tmp_path) as stage:
            view = await offered(stage, ada, vault)

            async def meanwhile(self: Guard, asking: Asking, action: str, *more: Any) -> None:
                if action == "submit":
                    again = Deliver(paths=(view.path,), to=view.to)
                    await stage.transferring.deliver(again, stage.asking(ada, "-third"))
                await note(self, asking, action, *more)

            monkeypatch.setattr(Guard, "note", meanwhile)
            order = await stage.transferring.submissions.submission(AskSubmission(id=view.id), stage.asking(ada))
        assert order.login["authorization_parameters"]["session_required_single_domain"] == [vault.domain]

    asyncio.run(scenario())


def test_a_program_is_not_kept_from_submitting_by_what_another_has_named(
    transfers: Transfers, vault: Collection, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ada, page = transfers.setting.person, Page(transfers)
        async with staged_service(transfers, tmp_path, transfer_wait_s=0.5) as stage:
            await offered(stage, ada, vault)  # it is known from now on
            places = [f"globus://{vault.id}/run{number}/" for number in (1, 2)]
            views = [(await stage.deliver(ada, stage.staged(ada, f"{to[-2]}.h5"), to=to))[0] for to in places]
            async with asyncio.timeout(WITHIN_S):
                while any(each.state != "offered" or each.login is None for each in await stage.look(ada)):
                    await asyncio.sleep(0.02)
            submitter = Submitter(asked_by(stage, ada), page, agreement(None, yes=True), print)
            for view, to in zip(views, places, strict=True):
                await asyncio.to_thread(submitter.submit, view.id, to)
            async with asyncio.timeout(WITHIN_S):
                while len(stage.arrived) < 2:
                    await asyncio.sleep(0.02)
        assert [path.name for path in sorted(vault.root.glob("run*/*.h5"))] == ["1.h5", "2.h5"]

    asyncio.run(scenario())
