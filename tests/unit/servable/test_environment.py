from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hpcserve
from hpcserve import bootstrap
from hpcserve.errors import ManifestError
from hpcserve.servable.environment import argv_for, variables_for
from hpcserve.servable.manifest import Environment, Manifest, to_json
from tests.own_python import make_venv


@pytest.fixture(scope="module")
def foreign_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with msgspec and numpy of its own, and without hpcserve."""
    return make_venv(tmp_path_factory.mktemp("foreign") / "venv", "msgspec", "numpy")


def run(argv: list[str], *, cwd: Path, stdin: str = "") -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_venv_runs_our_modules_with_its_own_packages(foreign_venv: Path, tmp_path: Path) -> None:
    python = str(foreign_venv / "bin" / "python")
    absent = subprocess.run([python, "-c", "import hpcserve"], capture_output=True, cwd=tmp_path, check=False)
    assert absent.returncode != 0, "the environment must not have hpcserve for this test to mean anything"
    (tmp_path / "model.py").write_text(
        "import hpcserve, json, sys, types\n"
        "print(json.dumps([hpcserve.__file__, types.__file__, sys.path, sys.argv]), file=sys.stderr)\n"
    )
    argv = argv_for(Environment(kind="venv", path=str(foreign_venv)), "hpcserve.servable.inspect", str(tmp_path))
    ran = subprocess.run(
        argv,
        input=to_json(Manifest(name="a", loader="python", entry="model:f")),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    package, types, path, arguments = json.loads(ran.stderr)
    ours = Path(str(hpcserve.__file__))
    assert Path(package) == ours
    assert Path(types).parent != ours.parent
    assert arguments[1:] == [str(tmp_path)]
    entries = {Path(entry).resolve() for entry in path}
    assert not entries & {ours.parent, ours.parent.parent, Path(str(msgspec.__file__)).parent.parent}


def test_a_venv_inspects_a_servable(foreign_venv: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import sys\nfrom hpcserve import Tensor, method\n"
        "assert sys.prefix != sys.base_prefix\n"
        "try:\n    import sklearn\nexcept ImportError: name = 'alone'\nelse: name = 'leaked'\n"
        "def f(**k): ...\n"
        "f.__name__ = name\n"
        "f = method(inputs={}, outputs={})(f)\n"
    )
    manifest = Manifest(name="a", loader="python", entry="model:f")
    argv = argv_for(Environment(kind="venv", path=str(foreign_venv)), "hpcserve.servable.inspect", str(tmp_path))
    answer = json.loads(run(argv, cwd=tmp_path, stdin=to_json(manifest)))
    assert answer["message"] == ""
    assert list(answer["manifest"]["methods"]) == ["alone"]


def test_the_same_interpreter_ignores_the_current_directory(tmp_path: Path) -> None:
    """A user's numpy.py or types.py in the directory where the daemon was started is not ours to import."""
    (tmp_path / "servable").mkdir()
    for name in ("numpy.py", "types.py", "msgspec.py", "hpcserve.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    (tmp_path / "servable" / "model.py").write_text(
        "from hpcserve import Tensor, method\n@method(inputs={}, outputs={})\ndef f(): ...\n"
    )
    argv = argv_for(Environment(), "hpcserve.servable.inspect", str(tmp_path / "servable"))
    assert argv[0] == sys.executable
    answer = json.loads(run(argv, cwd=tmp_path, stdin=to_json(Manifest(name="a", loader="python", entry="model:f"))))
    assert list(answer["manifest"]["methods"]) == ["f"]


def test_the_bootstrap_can_tell_old_interpreters_that_they_are_too_old() -> None:
    source = Path(bootstrap.__file__).read_text()
    ast.parse(source, feature_version=(3, 6))
    with pytest.raises(SyntaxError):
        ast.parse("(a := 1)", feature_version=(3, 6))


def test_the_bootstrap_needs_a_module(tmp_path: Path) -> None:
    argv = argv_for(Environment(), "x")[:2]
    result = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("usage: PYTHON bootstrap.py MODULE")


@pytest.mark.parametrize("make", ["nothing", "no python", "not executable"])
def test_a_venv_that_is_none(tmp_path: Path, make: str) -> None:
    place = tmp_path / "venv"
    if make != "nothing":
        (place / "bin").mkdir(parents=True)
    if make == "not executable":
        (place / "bin" / "python").touch(mode=0o644)
    for kind, made_with in (("venv", "python3 -m venv"), ("conda", "conda create --prefix")):
        environment = msgspec.convert({"kind": kind, "path": str(place)}, Environment)
        expected = f"environment.path: no Python at {place}/bin/python; make it with: {made_with} {place} "
        with pytest.raises(ManifestError, match=expected):
            argv_for(environment, "hpcserve.servable.inspect")


@pytest.mark.parametrize(("kind", "stays"), [("same", True), ("module", True), ("venv", False), ("conda", False)])
def test_what_modules_have_set_stays_for_a_python_of_modules(kind: str, *, stays: bool) -> None:
    """Those that are loaded already are not loaded again."""
    table: dict[str, Any] = {"kind": kind}
    table |= {"modules": ["py"]} if kind == "module" else {"path": "/x"} if kind != "same" else {}
    environment = msgspec.convert(table, Environment)
    assert ("PYTHONPATH" in variables_for(environment, {"PYTHONPATH": "/modules", "PYTHONHOME": "/y"})) is stays
