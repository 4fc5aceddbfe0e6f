"""``hpcserve down`` lets the pilots go on, or finish what they run, where it is asked to."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.acceptance.newcomer import User, until, user_in

TALLY = Path(__file__).parents[1] / "data" / "servables" / "tally"
WRONG_FILE, NO_ANSWER, TOO_LATE = 2, 3, 6


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Serves ``tally`` on two replicas; nothing is left when the test is over."""
    with user_in(tmp_path / "home") as found:
        found.ok("up", "--detach")
        found.ok("publish", TALLY)
        found.ok("deploy", "tally", "--replicas", "2")
        yield found
        found.ok("down")
        until(found.gone)


def replica_pids(user: User) -> set[int]:
    """Of those that are set up; one in a call connects to a new daemon afterwards."""
    (deployment,) = user.status()["deployments"]
    return {each["pid"] for each in deployment["replicas"] if each["state"] in ("connecting", "ready")}


def pilots(user: User) -> dict[str, str]:
    return {each["pilot"]: each["job"] for each in user.status()["pilots"]}


class Call:
    """A request that runs until it is let go."""

    def __init__(self, user: User, place: Path) -> None:
        self._place = place
        place.mkdir()
        self._log = place / "log"
        (place / "n.json").write_text("7")
        argv = ("run", "tally.again", "--input", place / "n.json", f"--param=log={self._log}", f"--param=gates={place}")
        self._process: subprocess.Popen[str] = user.start(*argv)
        until(self._log.exists)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def let_go(self) -> None:
        (self._place / "all").touch()

    def answer(self) -> Any:
        out, err = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, err
        return json.loads(out)

    def runs(self) -> int:
        """How often it was begun."""
        return len(self._log.read_text().splitlines())


def test_what_is_kept_goes_on_and_answers_the_next_daemon(user: User, tmp_path: Path) -> None:
    before, jobs = replica_pids(user), pilots(user)
    assert len(before) == 2
    with Call(user, tmp_path / "call") as call:
        said = user.ok("down", "--pilots", "keep")
        for pilot, job in jobs.items():
            assert f"{pilot}, job {job}, goes on\n" in said
        assert "the next hpcserve up takes them over" in said
        assert all(map(psutil.pid_exists, before))
        user.ok("up", "--detach")
        until(lambda: replica_pids(user) == before, 60.0)
        assert pilots(user) == jobs
        call.let_go()
        assert call.answer() == {"n": 7}
        assert call.runs() == 1


def test_what_is_drained_answers_first(user: User, tmp_path: Path) -> None:
    with Call(user, tmp_path / "call") as call:
        said = user.fails(TOO_LATE, "down", "--pilots", "drain", "--timeout", "10")
        assert "1 requests at tally-" in said
        assert "wait for it with: hpcserve down --pilots drain" in said
        assert [each["state"] for each in user.status()["deployments"]] == ["draining"]
        down = user.start("down", "--pilots", "drain")
        call.let_go()
        assert call.answer() == {"n": 7}
    _, err = down.communicate(timeout=60)
    assert down.returncode == 0, err
    until(user.gone)


def test_an_idle_daemon_is_drained_at_once_and_serves_as_before_afterwards(user: User) -> None:
    user.ok("down", "--pilots", "drain")
    assert user.gone()
    user.ok("up", "--detach")
    until(lambda: len(replica_pids(user)) == 2, 60.0)


def test_a_drain_is_given_up_by_down(user: User, tmp_path: Path) -> None:
    with Call(user, tmp_path / "call"):
        user.fails(TOO_LATE, "down", "--pilots", "drain", "--timeout", "1")
        user.ok("down")


def test_a_daemon_that_cannot_be_asked_to_is_left_alone(user: User) -> None:
    shared = user.record.parent  # the whole of it: a record that is only removed is soon written again
    away = shared.with_name("away")
    shared.rename(away)
    for pilots in ("keep", "drain"):
        said = user.fails(NO_ANSWER, "down", "--site", "local", "--pilots", pilots)
        assert f"cannot be asked to {pilots} its pilots" in said
    away.rename(shared)
    assert len(replica_pids(user)) == 2


@pytest.mark.parametrize("fault", ["", "[pilots]\nslotss = 2\n"])
def test_whose_daemon_it_is_takes_it_down_though_others_administer_it(tmp_path: Path, fault: str) -> None:
    with user_in(tmp_path / "home") as user:
        (user.home / "sites").mkdir(mode=0o700, parents=True)
        user.home.chmod(0o700)
        site = 'base = "local"\n[access]\nadminister = { allow = ["user:somebody-else"] }\n'
        (user.home / "sites" / "local.toml").write_text(site)
        user.ok("up", "--detach")
        assert "administer.allow does not name you" in user.fails(4, "down", "--pilots", "drain")
        (user.home / "sites" / "local.toml").write_text(site + fault)
        done = user.run("down")
        assert (done.returncode, b"your own daemon" in done.stderr) == (0, True), done
        until(user.gone)


def test_a_daemon_goes_down_though_its_site_file_has_got_a_fault(tmp_path: Path) -> None:
    with user_in(tmp_path / "home") as user:
        (user.home / "sites").mkdir(mode=0o700, parents=True)
        user.home.chmod(0o700)
        file = user.home / "sites" / "lab.toml"
        top = f'base = "local"\nshared_dir = "{tmp_path}/shared"\n'
        user.environment["HPCSERVE_SITE"] = "lab"
        file.write_text(top)
        user.ok("up", "--detach")
        user.ok("publish", TALLY)
        user.ok("deploy", "tally")
        file.write_text(f"{top}[pilots]\nslots = two\n")
        refused = user.fails(WRONG_FILE, "status")
        done = user.run("down")
        assert done.returncode == 0, done
        (said,) = done.stderr.decode().splitlines()
        assert said.startswith(f"the site file has a fault, and its daemon goes down all the same: {file}: ")
        why = said.partition("the same: ")[2]
        assert refused.startswith(f"error: {why}"), "that is the fault"
        assert b"the daemon of site lab on" in done.stdout
        until(user.gone)
        assert user.fails(WRONG_FILE, "down") == f"error: {why}\n", "whether one runs elsewhere is not known"
