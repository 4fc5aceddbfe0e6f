from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcserve.errors import ManifestError
from hpcserve.registry.discovery import MAX_LOG_BYTES, resolve_methods
from hpcserve.servable.manifest import Environment, Manifest, to_json
from tests.own_python import NEEDED, make_conda, make_module, need_modules

GOOD = "from hpcserve import Tensor, method\n@method(inputs={}, outputs={})\ndef f(): ...\n"
MANIFEST = Manifest(name="a", loader="python", entry="model:f")


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_methods_are_found(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(GOOD)
    assert list(resolve_methods(MANIFEST, tmp_path, timeout_s=60).methods) == ["f"]


@pytest.mark.parametrize(
    ("source", "message", "traceback"),
    [
        ("1 / 0", "servable 'a': importing model.py failed: ZeroDivisionError: division by zero", "1 / 0"),
        ("import sys; sys.exit('no')", "importing model.py failed: SystemExit: no", "sys.exit"),
        (
            "import os; os.write(2, b'last words'); os._exit(7)",
            "ended with exit code 7 before its methods were known",
            "last words",
        ),
        ("import os; os.kill(os.getpid(), 11)", "ended with exit code -11 before its methods", ""),
        ("print('x' * 50_000_000); 1 / 0", "ZeroDivisionError", "1 / 0"),
    ],
)
def test_failing_code(tmp_path: Path, source: str, message: str, traceback: str) -> None:
    (tmp_path / "model.py").write_text(source)
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        resolve_methods(MANIFEST, tmp_path, timeout_s=60)
    assert traceback in (caught.value.remote_traceback or "")


def test_a_hanging_import_is_ended_with_all_its_children(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(__file__).with_name('pids').write_text(f'{os.getpid()} {child.pid}')\n"
        "print('x' * 100_000, 'waiting', flush=True)\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(ManifestError, match="servable 'a': importing it took longer than 3 s") as caught:
        resolve_methods(MANIFEST, tmp_path, timeout_s=3)
    log = caught.value.remote_traceback or ""
    assert "waiting" in log
    assert len(log) <= MAX_LOG_BYTES
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(alive(pid) for pid in pids))


def test_a_child_that_keeps_the_pipes_does_not_hold_the_answer(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(child.pid))\n" + GOOD
    )
    started = time.monotonic()
    try:
        assert list(resolve_methods(MANIFEST, tmp_path, timeout_s=60).methods) == ["f"]
        assert time.monotonic() - started < 30
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_an_import_does_not_outlive_the_process_that_asked(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    program = (
        "import sys; from pathlib import Path; from hpcserve.registry.discovery import resolve_methods; "
        "from hpcserve.servable.manifest import from_json; "
        "resolve_methods(from_json(sys.argv[1]), Path(sys.argv[2]), timeout_s=600)"
    )
    asking = subprocess.Popen([sys.executable, "-c", program, to_json(MANIFEST), str(tmp_path)])
    pid = tmp_path / "pid"
    try:
        wait_for(lambda: pid.exists() and pid.read_text())
    finally:
        asking.kill()
        asking.wait()
    wait_for(lambda: not alive(int(pid.read_text())))


def test_an_environment_without_our_packages_says_what_it_needs(tmp_path: Path) -> None:
    bare = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    (tmp_path / "model.py").write_text(GOOD)
    manifest = Manifest(
        name="a", loader="python", entry="model:f", environment=Environment(kind="venv", path=str(bare))
    )
    needs = f"servable 'a': {bare}/bin/python on .* lacks pyzmq, msgspec, numpy: .* install what is missing there by "
    said = f"{needs}{bare}/bin/python -m pip install pyzmq msgspec numpy"
    with pytest.raises(ManifestError, match=said) as caught:
        resolve_methods(manifest, tmp_path, timeout_s=60)
    assert caught.value.remote_traceback is None, "there is no more to say"


def test_an_environment_that_is_not_there(tmp_path: Path) -> None:
    manifest = Manifest(name="a", loader="python", environment=Environment(kind="venv", path="/no/such/venv"))
    with pytest.raises(ManifestError, match="no Python at /no/such/venv/bin/python"):
        resolve_methods(manifest, tmp_path, timeout_s=60)


def test_an_interpreter_that_is_too_old_says_so(tmp_path: Path) -> None:
    """A stand-in: its version is what it says it is."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys, runpy; sys.version_info = (3, 9, 2); "
        'del sys.argv[0]; runpy.run_path(sys.argv[0], run_name="__main__")\' "$@"\n'
    )
    python.chmod(0o755)
    manifest = Manifest(
        name="a", loader="python", entry="model:f", environment=Environment(kind="venv", path=str(tmp_path / "venv"))
    )
    with pytest.raises(ManifestError, match="servable 'a': .* is Python 3.9.2, and a servable needs 3.10 or later"):
        resolve_methods(manifest, tmp_path, timeout_s=60)


CONDA_MODEL = (
    "import os, sys\nfrom hpcserve import Tensor, method\n"
    "def f(**k): ...\n"
    "f = method(inputs={}, outputs={name: Tensor('JSON') for name in (os.environ['ORDER'], sys.prefix[-5:])})(f)\n"
)


def test_a_servable_in_a_conda_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither PYTHONPATH of the daemon's nor its own conda environment is in the way."""
    prefix = make_conda(tmp_path / "conda", *NEEDED)
    (prefix / "etc" / "conda" / "activate.d" / "order.sh").write_text("export ORDER=activated\n")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    (tmp_path / "model.py").write_text(CONDA_MODEL)
    environment = Environment(kind="conda", path=str(prefix))
    manifest = Manifest(name="a", loader="python", entry="model:f", environment=environment)
    found = resolve_methods(manifest, tmp_path, timeout_s=60)
    assert [tensor.name for tensor in found.methods["f"].outputs] == ["activated", "conda"]
    shutil.rmtree(prefix / "bin")
    with pytest.raises(ManifestError, match="no Python at"):
        resolve_methods(manifest, tmp_path, timeout_s=60)


def test_a_servable_in_a_module(tmp_path: Path) -> None:
    need_modules()
    prefix = make_conda(tmp_path / "conda", *NEEDED)
    modules = make_module(tmp_path / "modules", "ml/1.0", f"prepend-path PATH {prefix}/bin\nsetenv ORDER loaded\n")
    (tmp_path / "model.py").write_text(CONDA_MODEL)
    prologue = (f"module use {modules}",)
    environment = Environment(kind="module", modules=("ml/1.0",))
    manifest = Manifest(name="a", loader="python", entry="model:f", environment=environment)
    found = resolve_methods(manifest, tmp_path, timeout_s=60, prologue=prologue)
    assert [tensor.name for tensor in found.methods["f"].outputs] == ["loaded", "conda"]
    with pytest.raises(ManifestError, match="servable 'a': on .* module load ml/1.0 failed") as caught:
        resolve_methods(manifest, tmp_path, timeout_s=60)
    assert "Unable to locate a modulefile for 'ml/1.0'" in (caught.value.remote_traceback or "")
