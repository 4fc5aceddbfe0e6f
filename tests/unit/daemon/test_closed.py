"""Who may look into the processes of a daemon: what `/proc` shows to others of the same user, which are not root."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpcserve.daemon.launch import ChildStart, encode_line
from hpcserve.types import Epoch

NOBODY = """
import ctypes, os, signal, sys
from hpcserve.daemon.launch import close_proc

if not os.geteuid():  # to root all are open
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # which a change of the user has taken
said, says = os.pipe()
other = os.fork()
if not other:
    if sys.argv[1] == "closed":
        close_proc()
    os.write(says, b"!")
    signal.pause()
os.read(said, 1)
for look in (lambda: open(f"/proc/{other}/environ", "rb").read(), lambda: os.readlink(f"/proc/{other}/root"),
             lambda: os.listdir(f"/proc/{other}/fd")):
    try:
        look()
        print("seen")
    except PermissionError:
        print("hidden")
for name in ("cmdline", "stat", "statm"):  # by which the command line finds a daemon, and measures it
    assert open(f"/proc/{other}/{name}", "rb").read()
os.kill(other, signal.SIGKILL)
os.waitpid(other, 0)
"""

STARTED = """
import ctypes, sys
from hpcserve.daemon.launch import receive_start

receive_start("broker", ["--site", sys.argv[1]])
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
"""

SERVICE = """
mode = "service"
auth = "globus"
[globus]
client_id = "8f2c1d1e-0000-4000-8000-000000000001"
native_client_id = "8f2c1d1e-0000-4000-8000-000000000002"
[access]
administer = { allow = ["user:ops@lab.example"] }
[containers]
runtime = "apptainer"
[staging]
quota_bytes = 1000000
"""


def said(program: str, *arguments: str, given: bytes = b"") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], input=given, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split()


@pytest.mark.parametrize(("how", "expected"), [("open", "seen"), ("closed", "hidden")])
def test_a_closed_process_shows_others_of_its_user_nothing(how: str, expected: str) -> None:
    assert said(NOBODY, how) == [expected] * 3


@pytest.mark.parametrize(("site", "dumpable"), [(SERVICE, "0"), ("", "1")])
def test_those_of_a_service_for_many_are_closed(tmp_path: Path, site: str, dumpable: str) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(f'base = "local"\n{site}')
    start = ChildStart(name="broker", epoch=Epoch(1), runtime_dir=str(tmp_path), record="", ports={}, report_fd=2)
    assert said(STARTED, str(path), given=encode_line(start)) == [dumpable]
