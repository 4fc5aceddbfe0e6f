"""What this machine's own Apptainer does, since a replica in a container relies on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from hpcserve.cluster.containers import Bind, Inside, contained
from hpcserve.pilot import mps
from hpcserve.wire.launch import ContainerRules
from tests.integration import images
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


def test_our_command_shows_binds_and_variables_as_they_are(python_image: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'with, comma: and "quotes"'
    odd.mkdir()
    (odd / "file").write_text("there")
    value = "0,1 $(id) `id` \\ $HOME 'x' \"y\""
    code = (
        "import os, pathlib\n"
        "print(pathlib.Path('/odd/file').read_text())\n"
        "print(os.environ['GIVEN'], os.environ['CUDA_VISIBLE_DEVICES'], sep='\\n')\n"
        "print(sorted(set(os.environ) & {'STRAY', 'NAMED', 'HIP_VISIBLE_DEVICES'}))\n"
        "print(os.listdir('/tmp'), os.getcwd())\n"
    )
    inside = Inside(
        image=str(python_image),
        argv=("python3", "-c", f"import sys\n{code}"),
        binds=(Bind(str(odd), "/odd"),),
        environment={"GIVEN": value},
    )
    node = {**os.environ, "STRAY": "1", "NAMED": "1", "CUDA_VISIBLE_DEVICES": value, "APPTAINER_BIND": "/root"}
    made = contained(ContainerRules(runtime="apptainer", environment=("NAMED",)), inside, node)
    done = subprocess.run(made.argv, env=made.environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["there", value, value, "['NAMED']", "[] /tmp"]


def test_a_container_of_a_pilot_with_mps_shares_its_pipes_and_its_memory(python_image: Path) -> None:
    incarnation = f"image{os.getpid()}"
    where = Path(mps.place(incarnation))
    code = (
        "import os\n"
        "print(os.listdir(os.environ['CUDA_MPS_PIPE_DIRECTORY']), os.listdir(os.environ['CUDA_MPS_LOG_DIRECTORY']))\n"
        "print(os.readlink('/proc/self/ns/ipc'), os.readlink('/proc/self/ns/pid'), os.stat('/dev/shm').st_dev)\n"
        "open(os.environ['CUDA_MPS_PIPE_DIRECTORY'] + '/theirs', 'w')\n"
    )
    (where / "pipe").mkdir(parents=True)
    (where / "log").mkdir()
    (where / "pipe" / "control").touch()
    try:
        made = contained(
            mps.seen_in(ContainerRules(runtime="apptainer"), incarnation),
            Inside(image=str(python_image), argv=("python3", "-c", code)),
            {**os.environ, **mps.variables(incarnation)},
        )
        done = subprocess.run(made.argv, env=made.environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert (where / "pipe" / "theirs").exists()
    finally:
        shutil.rmtree(where)
    listed, spaces = done.stdout.splitlines()
    ipc, pid, memory = spaces.split()
    assert listed == "['control'] []"
    assert ipc == os.readlink("/proc/self/ns/ipc")
    assert int(memory) == os.stat("/dev/shm").st_dev
    assert pid != os.readlink("/proc/self/ns/pid"), "what is left in there still ends with it"


def test_only_a_signed_image_is_run(python_image: Path, keys: tuple[Path, Path, Path], tmp_path: Path) -> None:
    private, public, other = keys
    signed = images.signed(python_image, tmp_path / "signed.sif", private)
    for image, key, exit_code in ((signed, public, 0), (signed, other, 65), (python_image, public, 65)):
        inside = Inside(image=str(image), argv=("cat",))
        made = contained(ContainerRules(runtime="apptainer", signature_key=str(key)), inside, os.environ)
        done = subprocess.run(
            made.argv, env=made.environment, input="in and out", capture_output=True, text=True, check=False
        )
        assert done.returncode == exit_code, done.stderr
        assert done.stdout == ("" if exit_code else "in and out")
        assert (f"image {image}: not signed by the key {key}" in done.stderr) == bool(exit_code)
