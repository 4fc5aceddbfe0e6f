"""Logging in as a user does, at a daemon with ``auth = "globus"``. Globus is the loopback stand-in, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcserve import AsyncClient, Client, examples
from hpcserve.auth import tokens
from hpcserve.auth.globus import RETRIES
from hpcserve.client import dial, renewal
from hpcserve.client.arrival import Arrival
from hpcserve.client.login import REST_S
from hpcserve.client.services import Service
from hpcserve.cluster.slurm_text import QUEUE_FORMAT
from hpcserve.errors import LoginRequired, Overloaded
from hpcserve.testing.globus.browser import log_in
from hpcserve.testing.globus.records import Policy
from hpcserve.testing.globus.tls import make_certificates
from hpcserve.wire.messages import Welcome
from tests.acceptance.house import CACHE_S, House, X, house_in
from tests.acceptance.newcomer import User, until, user_in
from tests.acceptance.typist import Typist
from tests.integration.sshd import sshd_in

TOKEN = "POST /v2/oauth2/token$"
INTROSPECT = "POST /v2/oauth2/token/introspect"
MANY = 200
"""More than admission hears of one key in a row."""
POLICY = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_in(tmp_path_factory.mktemp("house")) as made:
        made.ops.ok("publish", examples.path("echo"))
        made.ops.ok("deploy", "echo", "--endpoint", "echo")
        yield made


@pytest.fixture(autouse=True)
def _well(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All is well at the beginning of each test, and in this process the SDK speaks to the stand-in."""
    world = house.globus.world
    for name, value in house.globus.globus.environment.items():
        monkeypatch.setenv(name, value)
    lifetime_s = world.lifetime_s
    yield
    world.lifetime_s = lifetime_s
    house.globus.globus.faults.clear()


def test_somebody_logs_in_calls_and_logs_out(house: House) -> None:
    user = house.user()
    assert "hpcserve login" in user.fails(4, *house.call)
    with house.types(user, "login") as typist:
        typist.logs_in()
        name = house.person(user).username
        assert typist.ends() == f"you are {name} at lab; the login renews itself\n"
    assert f"you are {name} at lab" in user.ok("login"), "and nobody is asked again"
    user.ok(*house.call)
    told = json.loads(user.ok("whoami", "--json"))
    assert (told["name"], told["id"], told["domain"]) == (name, house.person(user).id, "lab.example")
    assert told["login"]["renews"]
    said = user.ok("whoami", "lab")
    assert "administer" in said
    assert "not asked for: no rule here names one" in said
    tokens = house.tokens(user)
    left = user.run("logout")
    assert (left.returncode, left.stdout, left.stderr) == (0, b"you are logged out\n", b"")
    assert not any(token.active for token in tokens)
    assert not list((user.home / "logins").iterdir())
    assert "hpcserve login" in user.fails(4, *house.call)
    assert user.ok("logout") == "nobody was logged in\n"


def test_a_call_at_a_terminal_logs_in_and_goes_on(house: House) -> None:
    with house.types(house.user(), *house.call) as typist:
        typist.logs_in()
        assert typist.ends() != ""
        assert house.globus.scope in typist.seen, "what is consented to is said"


def test_the_files_are_the_users_alone_and_nothing_of_a_token_is_shown(house: House) -> None:
    user = house.logged_in()
    (path,) = (user.home / "logins").glob("*.json")
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert oct(path.parent.stat().st_mode & 0o777) == "0o700"
    path.chmod(0o644)
    assert "chmod 600" in user.fails(2, *house.call)
    path.chmod(0o600)
    token = json.loads(path.read_text())["access_token"]
    path.write_text(path.read_text()[:-30])
    told = user.fails(2, "--debug", *house.call)
    assert "hpcserve logout, hpcserve login" in told
    assert token not in told
    assert "may still be good" in user.fails(3, "logout")
    with house.types(user, "login") as typist:
        typist.logs_in().ends()


def test_a_revoked_token_is_replaced_while_a_client_goes_on(house: House) -> None:
    user = house.logged_in()
    with house.client(user) as client:
        client.infer("echo.echo", X)
        before = house.tokens(user)[0]
        house.globus.world.revoke(before.value)
        until(lambda: client.infer("echo.echo", X) and house.tokens(user)[0] != before)
        client.infer("echo.echo", X)


def test_a_login_is_renewed_before_it_ends_and_no_call_is_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early, so that a machine that does much else is in time."""
    monkeypatch.setattr(renewal, "PART", 0.05)
    house.globus.world.lifetime_s = 15
    user = house.logged_in()
    first = house.tokens(user)[0]
    house.globus.world.lifetime_s = 3600

    async def play(client: Client) -> None:
        async with AsyncClient(Service(house.ops.record)) as other:
            connections = client._shared.engine.connection, other._engine.connection
            while first.expires > time.time() - 2 or house.tokens(user)[0] == first:
                await asyncio.gather(asyncio.to_thread(client.infer, "echo.echo", X), other.infer("echo.echo", X))
            assert (client._shared.engine.connection, other._engine.connection) == connections, "they stay"

    with house.client(user) as client:
        asyncio.run(play(client))


def test_where_nothing_mends_it_calls_fail_and_say_what_to_do(house: House) -> None:
    user = house.logged_in()
    with house.client(user) as client:
        client.infer("echo.echo", X)
        for token in house.tokens(user):
            house.globus.world.revoke(token.value)

        def refused() -> bool:
            with contextlib.suppress(LoginRequired):
                client.infer("echo.echo", X)
                return False
            return True

        until(refused)
        with pytest.raises(LoginRequired, match="hpcserve login") as raised:
            client.infer("echo.echo", X)
        assert raised.value.detail["scope"] == house.globus.scope
        with house.types(user, "login") as typist:
            typist.logs_in().ends()
        client.infer("echo.echo", X)


def test_a_program_that_tries_again_without_a_pause_keeps_nobody_from_logging_in(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, said, say_hello = house.logged_in(), list[float](), dial.say_hello

    def counted(*arguments: Any, **named: Any) -> Welcome:
        said.append(time.monotonic())
        return say_hello(*arguments, **named)

    monkeypatch.setattr(dial, "say_hello", counted)
    with house.client(user) as client:
        client.infer("echo.echo", X)
        for token in house.tokens(user):
            house.globus.world.revoke(token.value)
        refused, goes_on = list[LoginRequired](), threading.Event()

        def tries() -> None:
            while not goes_on.is_set():
                try:
                    client.infer("echo.echo", X)
                    if refused:
                        goes_on.set()
                except LoginRequired as error:
                    refused.append(error)

        program = threading.Thread(target=tries, daemon=True)
        program.start()
        until(lambda: refused)
        begun, so_far, before = time.monotonic(), len(said), len(refused)
        until(lambda: len(refused) >= before + MANY)
        assert len(said) - so_far <= 1 + (time.monotonic() - begun) / REST_S
        with house.types(user, "login") as typist:
            typist.logs_in().ends()
        user.ok("whoami")
        assert goes_on.wait(60)
        program.join()


def test_a_key_that_has_asked_too_often_is_waited_for(house: House) -> None:
    user = house.user()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPCSERVE_HOME", str(user.home))
        with Arrival("lab") as arrival:

            def asks_on() -> None:
                while True:
                    arrival._hello_once("")

            with pytest.raises(Overloaded, match="without a pause"):
                asks_on()
            assert isinstance(arrival.demanded(), LoginRequired)
            with pytest.raises(Overloaded):
                asks_on()
            with pytest.raises(LoginRequired):
                Client(Service(house.ops.record))


def test_globus_is_away_for_a_while(house: House) -> None:
    user, faults = house.user(), house.globus.globus.faults
    with house.types(user, "login") as typist:
        address = typist.address()
        faults.add(TOKEN, 503, times=None)
        typist.types("anything")
        typist.ends(3)
        assert address.startswith("https://localhost")
        assert "Globus Auth gives no answer (HTTP 503)" in typist.seen
    faults.clear()
    faults.add(TOKEN, 429, retry_after_s=1)
    with house.types(user, "login") as typist:
        typist.logs_in().ends()


def test_a_service_that_globus_does_not_answer_for_a_moment_is_asked_again(house: House) -> None:
    house.globus.world.lifetime_s = 30  # so short that each command comes with a new token
    user, faults = house.logged_in(), house.globus.globus.faults

    async def calls() -> None:
        async with AsyncClient(Service(house.ops.record)) as client:
            await client.infer("echo.echo", X)

    faults.add(INTROSPECT, 503, times=RETRIES + 1, retry_after_s=0)
    user.ok(*house.call)
    faults.add(INTROSPECT, 503, times=RETRIES + 1, retry_after_s=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPCSERVE_HOME", str(user.home))
        asyncio.run(calls())
    faults.add(INTROSPECT, 503, times=None, retry_after_s=0)
    assert "Globus Auth gives no answer about your login (HTTP 503)" in user.fails(3, *house.call)


@pytest.mark.parametrize(("typed", "said"), [("not-the-code", "does not take the code"), ("", "no code was pasted")])
def test_a_wrong_code(house: House, typed: str, said: str) -> None:
    user = house.user()
    with house.types(user, "login") as typist:
        typist.address()
        typist.types(typed).ends(4)
        assert said in typist.seen
    assert "nobody was logged in" in user.ok("logout")


@pytest.mark.parametrize("arguments", [("login",), None])
def test_ctrl_c_at_the_prompt(house: House, arguments: tuple[str, ...] | None) -> None:
    with house.types(house.user(), *(arguments or house.call)) as typist:
        typist.address()
        typist.interrupts().ends(130)
        assert "Traceback" not in typist.seen


def test_without_a_terminal(house: House) -> None:
    told = house.user().fails(4, "login")
    assert "terminal" in told
    assert "HPCSERVE_CLIENT_SECRET" in told


def test_two_log_in_at_once(house: House) -> None:
    user = house.user()
    with house.types(user, "login") as first, house.types(user, "login") as second:
        codes = [log_in(typist.address(), house.globus.ca) for typist in (first, second)]
        for typist, code in zip((first, second), codes, strict=True):
            typist.types(code)
        first.ends()
        second.ends()
    user.ok(*house.call)


def test_a_program_logs_in_by_its_secret(house: House) -> None:
    world = house.globus.world
    program = world.add_client("nightly", secret="of-the-program")
    user = house.user(HPCSERVE_CLIENT_ID=program.id, HPCSERVE_CLIENT_SECRET="of-the-program")
    user.ok(*house.call)
    assert json.loads(user.ok("whoami", "--json"))["name"] == f"{program.id}@clients.auth.globus.org"
    for token in house.tokens(user):
        world.revoke(token.value)
    user.ok("login", "--force")
    user.ok(*house.call)
    user.environment["HPCSERVE_CLIENT_SECRET"] = "wrong"
    assert "HPCSERVE_CLIENT_SECRET" in user.fails(4, "login", "--force"), "it logs in anew"
    user.ok(*house.call)
    (path,) = (user.home / "logins").glob("*.json")
    path.unlink()
    assert "HPCSERVE_CLIENT_SECRET" in user.fails(4, *house.call)
    del user.environment["HPCSERVE_CLIENT_SECRET"]
    assert "HPCSERVE_CLIENT_SECRET is not" in user.fails(2, *house.call)


def test_without_the_globus_sdk(house: House, tmp_path: Path) -> None:
    (tmp_path / "globus_sdk.py").write_text("raise ImportError('blocked')\n")
    user = house.user(PYTHONPATH=str(tmp_path))
    with house.types(user, "login") as typist:
        typist.ends(2)
        assert "pip install 'hpcserve[globus]'" in typist.seen


def test_a_disk_that_is_full_leaves_no_login_behind(house: House, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n")
    user = house.user()
    user.fails(4, *house.call)
    user.environment["PYTHONPATH"] = str(tmp_path)
    known = set(house.globus.world.tokens)
    with house.types(user, "login") as typist:
        typist.logs_in().ends(8)
    fresh = [token for value, token in house.globus.world.tokens.items() if value not in known]
    assert fresh
    assert not any(token.active for token in fresh)


def test_a_disk_that_is_full_leaves_the_login_that_there_was(house: House, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n")
    user = house.logged_in()
    user.environment["PYTHONPATH"] = str(tmp_path)
    with house.types(user, "login", "--force") as typist:
        typist.logs_in().ends(8)
    del user.environment["PYTHONPATH"]
    assert_still_in(house, user)


def assert_still_in(house: House, user: User) -> None:
    """The login that somebody keeps is good, and not since the daemon remembers it alone."""
    time.sleep(CACHE_S + 0.5)
    user.ok("whoami")
    assert all(token.active for token in house.tokens(user))


def test_a_clock_that_is_wrong_does_no_harm(house: House) -> None:
    house.globus.world.ahead_s = 50.0
    try:
        user = house.logged_in()
        user.ok(*house.call)
        kept = [token.value for token in house.tokens(user)]
        known = set(house.globus.world.tokens)
        house.globus.world.ahead_s = 3600.0
        with house.types(user, "login", "--force") as typist:
            typist.logs_in().ends(4)
        assert "clock is wrong" in " ".join(typist.seen.split())
    finally:
        house.globus.world.ahead_s = 0.0
    assert [token.value for token in house.tokens(user)] == kept, "the login that there was stays"
    assert_still_in(house, user)
    said = [token for value, token in house.globus.world.tokens.items() if value not in known and not token.refresh]
    assert any(not token.active for token in said), "what the service was told is worth nothing"


def test_a_daemon_is_well_though_its_operator_is_not_logged_in(house: House) -> None:
    logins = house.ops.home / "logins"
    logins.rename(logins.with_name("put-aside"))
    try:
        said = " ".join(house.ops.ok("doctor").split())
    finally:
        logins.with_name("put-aside").rename(logins)
    assert "warning daemon: it answers, and tells you nothing of its pilots" in said
    assert "hpcserve login" in said


def test_a_login_that_does_not_renew_itself_says_so(house: House) -> None:
    user = house.logged_in("--once")
    assert "ends in 1 d 23 h" in user.ok("whoami")
    assert json.loads(user.ok("whoami", "--json"))["login"]["renews"] is False


@pytest.fixture
def later(house: House) -> Iterator[str]:
    """An endpoint that answers nothing until it has replicas."""
    house.ops.ok("deploy", "echo", "--endpoint", "later", "--replicas", "0")
    yield "later"
    house.ops.ok("undeploy", "later")


@contextlib.contextmanager
def ended_in_the_middle(house: House, endpoint: str) -> Iterator[Typist]:
    """A call that waits, by somebody whose login is ended meanwhile."""
    user = house.logged_in()
    call = ("run", f"{endpoint}.echo", "--input", f"x={house.x}", "--timeout", "300")
    with house.types(user, *call) as typist:
        until(lambda: _waits(house, endpoint), 60)
        for token in house.tokens(user):
            house.globus.world.revoke(token.value)
        yield typist


def test_a_login_that_is_ended_in_the_middle_of_a_call_is_made_again_and_the_call_goes_on(
    house: House, later: str
) -> None:
    with ended_in_the_middle(house, later) as typist:
        typist.logs_in()
        house.ops.ok("deploy", "echo", "--endpoint", later, "--replicas", "1")
        assert typist.ends() != ""
        assert "the token is not valid" in typist.seen


def test_ctrl_c_at_the_prompt_in_the_middle_of_a_call(house: House, later: str) -> None:
    with ended_in_the_middle(house, later) as typist:
        typist.address()
        typist.interrupts().ends(130)
        assert "Traceback" not in typist.seen


def _waits(house: House, endpoint: str) -> bool:
    (found,) = (each for each in house.ops.status()["deployments"] if endpoint in each["endpoints"])
    return bool(found["queued"])


@pytest.fixture(scope="module")
def strict(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Another service of the same registration, with a policy (two factors), for identities of the facility."""
    place = tmp_path_factory.mktemp("strict")
    with user_in(place / "ops") as ops:
        ops.environment |= house.globus.globus.environment
        (ops.home / "sites").mkdir(mode=0o700, parents=True)
        ops.home.chmod(0o700)
        more = f'domains = ["facility.example"]\nrequired_policies = ["{POLICY}"]\n[access]'
        site = (house.ops.home / "sites" / "local.toml").read_text().replace("[access]", more)
        (ops.home / "sites" / "local.toml").write_text(site)
        house.globus.world.add_policy(Policy(POLICY, "two factors", required_mfa=True))
        ops.ok("up", "--detach")
        yield ops
        ops.ok("down")


def test_a_service_that_asks_for_the_login_of_another_one_does_not_get_it(house: House, strict: User) -> None:
    user = house.logged_in()
    user.ok("service", "add", "strict", strict.record)
    with house.types(user, "login", "strict") as typist:
        typist.ends(4)
        assert "hpcserve login --same-owner" in typist.seen
    with house.types(user, "--service", "strict", "status") as typist:
        typist.ends(4)
    assert len(list((user.home / "logins").iterdir())) == 1
    user.ok(*house.call)


def test_a_service_with_a_new_key_gets_the_login_of_the_old_one_after_one_yes(house: House) -> None:
    user = house.logged_in()
    (path,) = (user.home / "logins").glob("*.json")
    kept = json.loads(path.read_text()) | {"service": "the key that it had"}
    path.rename(path_of(kept["service"], user.home)).write_text(json.dumps(kept))
    with house.types(user, "login") as typist:
        typist.ends(4)
    with house.types(user, "login", "--same-owner") as typist:
        typist.logs_in().ends()
    with house.types(user, "login", "--force") as typist:
        typist.logs_in().ends()


def path_of(service: str, home: Path) -> Path:
    """Where somebody's login for a service is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPCSERVE_HOME", str(home))
        return tokens.path_of(service)


def test_a_certificate_that_is_not_trusted_is_told_as_that(house: House, tmp_path: Path) -> None:
    user = house.user()
    others = make_certificates(tmp_path)
    user.environment["GLOBUS_SDK_VERIFY_SSL"] = str(others)
    with house.types(user, "login") as typist:
        typist.logs_in().ends(3)
        assert "the certificate of what answers in Globus Auth's place" in typist.seen.replace("\n", " ")


def test_why_a_program_is_not_let_in_is_told_whatever_the_site_is_called(house: House) -> None:
    user = house.user(HPCSERVE_CLIENT_ID=POLICY, HPCSERVE_CLIENT_SECRET="none", HPCSERVE_SITE="nowhere")
    assert f"Globus does not let the client {POLICY} in (HTTP 401)" in user.fails(4, "whoami")


def test_a_login_of_somebody_else_leaves_the_one_that_there_is(house: House) -> None:
    user = house.logged_in()
    with house.client(user) as client:
        client.infer("echo.echo", X)
        kept = [path.read_text() for path in (user.home / "logins").iterdir()]
        house.globus.world.sign_in(house.globus.world.add_person("eve@lab.example"))
        with Typist(user, house.globus.ca, "login", "--force") as typist:
            typist.logs_in().ends(7)
            assert "your key is in use by a login of" in typist.seen
        assert [path.read_text() for path in (user.home / "logins").iterdir()] == kept
        assert all(token.active for token in house.tokens(user))
        user.ok(*house.call)


def test_a_service_that_wants_more_gets_it(house: House, strict: User) -> None:
    world = house.globus.world
    staff = world.add_person("ada@facility.example", second_factor=True)
    user = house.user()
    world.link(house.person(user), staff)
    user.ok("service", "add", "strict", strict.record)
    with house.types(user, "login", "strict") as typist:
        for _ in range(3):
            typist.logs_in()
        assert typist.ends() == "you are ada@facility.example at strict; the login renews itself\n"
        assert typist.seen.count("Paste the code") == 3, "a policy, then another identity, and still the policy"
    assert "ada@facility.example" in user.ok("--service", "strict", "whoami")

    user.ok("--service", "strict", "publish", examples.path("echo"))
    user.ok("--service", "strict", "deploy", "echo", "--endpoint", "echo")
    other = house.user()
    world.link(house.person(other), world.add_person("grace@facility.example", second_factor=True))
    other.ok("service", "add", "strict", strict.record)
    with house.types(other, "--service", "strict", *house.call) as typist:
        for _ in range(3):
            typist.logs_in()
        assert json.loads(typist.ends()) == {"x": X.tolist()}, "the call goes on"
    other.ok("--service", "strict", *house.call)


def test_a_service_behind_ssh_is_logged_in_at_from_a_laptop(house: House, tmp_path: Path) -> None:
    """The login's files are the laptop's; the token goes through the tunnel."""
    with sshd_in(tmp_path, {"HPCSERVE_HOME": str(house.ops.home)}) as sshd:
        user = house.user(PATH=sshd.path)
        address = sshd.address()
        assert "hpcserve login" in user.fails(4, "--service", address, *house.call)
        with house.types(user, "login", address) as typist:
            typist.logs_in()
            assert typist.ends().startswith(f"you are {house.person(user).username} at ")
        assert json.loads(user.ok("--service", address, *house.call)) == {"x": X.tolist()}
        assert len(house.tokens(user)) > 0
        user.ok("logout", address)
        user.fails(4, "--service", address, *house.call)


@pytest.fixture
def queueing(house: House, tmp_path: Path) -> Iterator[User]:
    """Another service, whose batch scheduler expects to start its pilot in three days."""
    commands = tmp_path / "slurm"
    commands.mkdir()
    widths = re.findall(r":(\d+)", QUEUE_FORMAT)
    for state in ("PENDING", "CANCELLED"):
        fields = ("1", state, "0", "0", "n/a", str(int(time.time()) + 3 * 86_400), "Priority", "x")
        record = "".join(f"{field:{width}}|" for field, width in zip(fields, widths, strict=True))
        (commands / state).write_text(f"{record}\n")
    does = {
        "squeue": f"cat {commands}/PENDING",
        "sbatch": "cat >/dev/null; echo 1",
        "scancel": f"mv {commands}/CANCELLED {commands}/PENDING",
        "sacct": "exit 1",
    }
    for name, what in does.items():
        (commands / name).write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo slurm 22.05.8 && exit\n{what}\n')
        (commands / name).chmod(0o755)
    with user_in(tmp_path / "ops") as ops:
        ops.environment |= house.globus.globus.environment
        ops.environment["PATH"] = f"{commands}:{ops.environment['PATH']}"
        (ops.home / "sites").mkdir(mode=0o700, parents=True)
        ops.home.chmod(0o700)
        site = (house.ops.home / "sites" / "local.toml").read_text().replace('base = "local"', 'base = "slurm"')
        more = '[network]\nhost = "127.0.0.1"\n[scheduler]\npoll_s = 0.2\npoll_max_s = 1.0\n'
        (ops.home / "sites" / "local.toml").write_text(site + more)
        ops.ok("up", "--detach")
        yield ops
        ops.ok("down")


def test_a_login_that_ends_before_a_pilot_is_expected_to_start_is_told_at_once(house: House, queueing: User) -> None:
    user = queueing
    user.ok("service", "add", "queueing", user.record)
    with house.types(user, "login", "--once") as typist:
        typist.logs_in().ends()
    user.ok("publish", examples.path("echo"))
    waits = user.start("deploy", "echo", "--endpoint", "echo")
    assert waits.stderr is not None
    told = next(line for line in waits.stderr if "your login ends" in line)
    waits.send_signal(signal.SIGINT)
    waits.communicate()
    assert re.match(r"your login ends in 1 d 23 h, and pilot \S+ is expected to start in 2 d 23 h: ", told)
    call = ("run", "echo.echo", "--input", f"x={house.x}", "--timeout", "1")
    assert "your login ends in 1 d 23 h" in user.fails(6, *call)
    with house.types(user, "login", "--force") as typist:
        typist.logs_in().ends()
    assert "your login ends" not in user.fails(6, *call)
