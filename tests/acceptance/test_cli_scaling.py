"""Deployments that are scaled, as a user of the command line sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.newcomer import until, user_in

PLACES = "plan [0 to 4]: "


def test_a_scaled_deployment_from_idle_to_ready(tmp_path: Path, root: Path) -> None:
    echo = root / "hpcserve" / "examples" / "echo"
    with user_in(tmp_path) as user:
        user.ok("up", "--detach")
        user.ok("publish", echo)
        assert user.ok("deploy", "echo", "--max-replicas", "4", "--hot-replicas", "2").rstrip().endswith("idle")
        assert f"{PLACES}no replica, because" in user.ok("status")
        user.ok("run", "echo.echo", "--input", "-", given=b'{"x": [1, 2.5]}')

        def hot() -> bool:
            (found,) = user.status()["deployments"]
            return (found["state"], found["wanted"], len(found["replicas"])) == ("ready", 2, 2)

        until(hot, 60)
        assert f"{PLACES}2 replicas, because it is in use" in user.ok("status")
        told = user.run("deploy", "echo")
        assert b"no longer set, as it was not given again: --max-replicas 4 --hot-replicas 2" in told.stderr
        assert "echo: plan: 1 replica, fixed" in user.ok("status")
        user.ok("deploy", "echo", "--replicas", "0")
        assert "echo: plan: paused" in user.ok("status")
        user.ok("down")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--min-replicas", "1"], 2, "it goes with --max-replicas"),
        (["--replicas", "1", "--max-replicas", "2"], 2, "the least is --min-replicas"),
        (["--max-replicas", "0"], 2, "0 is not in the range x>=1"),
        (["--max-replicas", "2", "--idle-s", "0"], 2, "'0': expected a number of seconds greater than 0; see: "),
        (["--max-replicas", "2", "--idle-s", "inf"], 2, "'inf': expected a number of seconds greater than 0; see: "),
        (["--hot-replicas", "2"], 2, "invalid value for --hot-replicas: it goes with --max-replicas; see: "),
        (["--idle-s", "2"], 2, "invalid value for --idle-s: it goes with --max-replicas; see: "),
        (
            ["--max-replicas", "2", "--min-replicas", "3"],
            2,
            "invalid value for --min-replicas: 3: expected at most --max-replicas, 2; see: ",
        ),
        (["--max-replicas", "2", "--hot-replicas", "3"], 2, "--hot-replicas: 3: expected at most --max-replicas, 2"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    with user_in(tmp_path) as user:
        assert words in user.fails(code, "deploy", "echo", *options)
