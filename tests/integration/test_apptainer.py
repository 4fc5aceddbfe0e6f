"""What this machine's own Apptainer does, since a replica in a container relies on it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.integration.daemon_tree import until

EXEC = ("apptainer", "--quiet", "exec", "--containall", "--cleanenv", "--no-home")


def test_an_image_runs_its_own_python_and_its_exit_code_comes_back(python_image: Path) -> None:
    code = "import os, sys; print(sys.prefix, os.environ.get('STRAY')); sys.exit(7)"
    done = subprocess.run(
        [*EXEC, str(python_image), "python3", "-c", code],
        env={**os.environ, "STRAY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "/usr None\n", "")


def test_a_killed_container_leaves_no_process_behind(python_image: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "alive"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*EXEC, "--bind", f"{tmp_path}:/pipe", str(python_image), "sh", "-c", "sleep 600 >/pipe/alive & sleep 600"]
    )
    with pipe.open(
        "rb", buffering=0
    ) as alive:  # opens when the grandchild has opened it, ends when nobody has it any more
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        os.set_blocking(alive.fileno(), False)
        until(lambda: alive.read() == b"", "the grandchild is gone", 30.0)
