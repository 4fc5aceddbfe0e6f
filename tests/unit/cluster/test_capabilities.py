"""What Apptainer is not to ask for where root lacks it: told by this process, and by the shell that runs containers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hpcserve.cluster.capabilities import SYS_RESOURCE, VARIABLE, lacks_sys_resource, without_missing
from hpcserve.cluster.containers import Inside, contained
from hpcserve.wire.launch import ContainerRules


@pytest.mark.parametrize(
    ("permitted", "lacks"),
    [
        ("000001ffffffffff", False),
        ("000001fffeffffff", True),
        ("0000000001000000", False),
        ("00000000feffffff", True),
        ("00000000a80425fb", True),
    ],
)
def test_what_root_lacks_is_seen(tmp_path: Path, permitted: str, *, lacks: bool) -> None:
    status = f"Name:\tsh\nCapInh:\t0000000000000000\nCapPrm:\t{permitted}\nCapEff:\t{permitted}\n"
    assert lacks_sys_resource(status) == lacks
    assert told_by_the_script(tmp_path, status, user="0") == (SYS_RESOURCE if lacks else "")
    assert told_by_the_script(tmp_path, status, user="1000") == ""
    assert told_by_the_script(tmp_path, status, user="0", **{VARIABLE: "CAP_CHOWN"}) == "CAP_CHOWN"


def test_the_user_s_own_word_stands_and_this_process_agrees_with_the_script(tmp_path: Path) -> None:
    assert without_missing({VARIABLE: "CAP_CHOWN", "A": "1"}) == {VARIABLE: "CAP_CHOWN", "A": "1"}
    status = Path("/proc/self/status").read_text()
    assert without_missing({}).get(VARIABLE, "") == told_by_the_script(tmp_path, status, user=str(os.geteuid()))


def told_by_the_script(place: Path, status: str, *, user: str, **more: str) -> str:
    """What the runtime is told by the script; id(1) and the status are ours."""
    (place / "status").write_text(status)
    for name, text in (("id", f"echo {user}"), ("runtime", f'echo "${{{VARIABLE}-}}"')):
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    made = contained(
        ContainerRules(runtime="apptainer", command=str(place / "runtime")), Inside(image="/a.sif", argv=("x",)), {}
    )
    shell, option, script, *words = made.argv
    script = script.replace("/proc/self/status", str(place / "status"))
    done = subprocess.run(
        [shell, option, script, *words],
        env={"PATH": f"{place}:{os.environ['PATH']}", **more},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
