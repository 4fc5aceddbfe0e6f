"""The shell before an interpreter: run for real, with a stand-in of a conda prefix and real environment modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from hpcserve.errors import ManifestError
from hpcserve.servable.environment import argv_for, unfit, variables_for
from hpcserve.servable.manifest import Environment
from tests.own_python import make_conda, make_module, need_modules

TELLS = (
    "import json, os, sys\n"
    "told = {'variables': dict(os.environ), 'python': sys.executable, 'input': sys.stdin.read(), 'argv': sys.argv}\n"
    "print(json.dumps(told))\n"
)
INHERITED = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/x", "HPCSERVE_HOME": "/y"}


def told(
    environment: Environment, prologue: tuple[str, ...] = (), arguments: tuple[str, ...] = (), **more: str
) -> dict[str, object]:
    done = ran(environment, prologue, arguments, more)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def ran(
    environment: Environment,
    prologue: tuple[str, ...] = (),
    arguments: tuple[str, ...] = (),
    more: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    """Runs a program in place of our module, that tells what it was given."""
    argv = argv_for(environment, "x", prologue=prologue)
    argv[-2:] = ["-c", TELLS, *arguments]
    variables = {**variables_for(environment, INHERITED), **more}
    return subprocess.run(argv, input="all of it\n", capture_output=True, text=True, env=variables, check=False)


def refusal(environment: Environment, prologue: tuple[str, ...] = ()) -> str:
    done = ran(environment, prologue)
    assert done.stdout == ""
    why = unfit(done.returncode, done.stderr)
    assert why, done
    return why


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a script that must come first, whatever the language, and one that conda does not run."""
    made = make_conda(tmp_path_factory.mktemp("conda") / "envs" / "model's own")
    (made / "etc" / "conda" / "env_vars.d").mkdir()
    (made / "etc" / "conda" / "env_vars.d" / "a.json").write_text('{"ONE": "package", "TWO": "a \\"b\\" $HOME `id`"}')
    (made / "conda-meta" / "state").write_text('{"version": 1, "env_vars": {"ONE": "state", "GONE": "***unset***"}}')
    scripts = made / "etc" / "conda" / "activate.d"
    (scripts / "Z.sh").write_text('set -- x y\nexport ORDER="$ORDER Z $CONDA_PREFIX $TWO"\nfalse\n')
    (scripts / "a.sh").write_text('echo noise; cat; export ORDER="$ORDER a"; _hpcserve=1\n')
    (scripts / "b.csh").write_text("setenv ORDER wrong\n")
    return made


def conda(prefix: Path) -> Environment:
    return Environment(kind="conda", path=str(prefix))


def test_a_conda_environment_is_activated_as_conda_does(prefix: Path) -> None:
    found = told(conda(prefix), arguments=("a b", "--", "$HOME"), GONE="x", LANG="en_US.UTF-8")
    variables = found["variables"]
    assert isinstance(variables, dict)
    assert found["python"] == f"{prefix}/bin/python"
    assert found["input"] == "all of it\n"
    assert found["argv"] == ["-c", "a b", "--", "$HOME"]
    assert variables["PATH"] == f"{prefix}/bin:/usr/bin:/bin"
    assert (variables["CONDA_PREFIX"], variables["CONDA_SHLVL"]) == (str(prefix), "1")
    assert variables["CONDA_DEFAULT_ENV"] == "model's own"
    assert variables["ONE"] == "state"
    assert variables["TWO"] == 'a "b" $HOME `id`'
    assert "GONE" not in variables
    assert variables["ORDER"] == f" Z {prefix} {variables['TWO']} a"
    assert not {"PYTHONPATH", "HPCSERVE_HOME"} & variables.keys()


def test_the_conda_environment_of_the_daemon_is_left_first(prefix: Path, tmp_path: Path) -> None:
    other = make_conda(tmp_path / "other")
    leaving = other / "etc" / "conda" / "deactivate.d"
    (leaving / "a.sh").write_text('export LEFT="$LEFT a $CONDA_PREFIX"\n')
    (leaving / "b.sh").write_text('export LEFT="b"\n')
    path = f"/sbin:{other}/bin:/usr/bin:/bin"
    variables = told(conda(prefix), CONDA_PREFIX=str(other), CONDA_SHLVL="1", PATH=path)["variables"]
    assert isinstance(variables, dict)
    assert variables["LEFT"] == f"b a {other}"
    assert variables["PATH"] == f"{prefix}/bin:/sbin:/usr/bin:/bin"


def test_an_environment_need_not_have_scripts(tmp_path: Path) -> None:
    bare = make_conda(tmp_path / "bare")
    shutil.rmtree(bare / "etc")
    shutil.rmtree(bare / "conda-meta")
    variables = told(conda(bare))["variables"]
    assert isinstance(variables, dict)
    assert variables["CONDA_DEFAULT_ENV"] == variables["CONDA_PREFIX"] == str(bare)


def test_what_conda_has_written_must_be_readable(tmp_path: Path) -> None:
    broken = make_conda(tmp_path / "broken")
    (broken / "conda-meta" / "state").write_text("{")
    with pytest.raises(ManifestError, match="environment.path: cannot read .*/conda-meta/state"):
        argv_for(conda(broken), "x")


def test_the_prologue_runs_in_the_same_shell_before_all_else(prefix: Path) -> None:
    """Whatever options it sets; what it prints and reads is not the interpreter's."""
    lines = ("set -eu", "echo loud; cat", "export SITE='it is set'", 'export ORDER="$SITE:"')
    for environment in (conda(prefix), Environment(kind="venv", path=str(prefix))):
        found = told(environment, lines)
        variables = found["variables"]
        assert isinstance(variables, dict)
        assert variables["SITE"] == "it is set"
        assert variables["ORDER"].startswith("it is set:")
        assert found["input"] == "all of it\n"


def test_the_daemon_s_own_interpreter_needs_no_prologue() -> None:
    assert argv_for(Environment(), "x", prologue=("exit 1",))[0] == sys.executable


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("(exit 3)", "the line '(exit 3)' of the site's environments.prologue failed with exit code 3"),
        ("exit 0", "the line 'exit 0' of the site's environments.prologue ended the shell"),
        ("no-such-program", "the line 'no-such-program' of the site's environments.prologue failed with exit code 127"),
    ],
)
def test_a_prologue_that_fails(prefix: Path, line: str, why: str) -> None:
    assert f"on {os.uname().nodename} {why}" in refusal(conda(prefix), (line,))


def test_an_activation_that_ends_the_shell(tmp_path: Path) -> None:
    broken = make_conda(tmp_path / "broken")
    script = broken / "etc" / "conda" / "activate.d" / "bad.sh"
    script.write_text("exit 0\n")
    assert f"{script} ended the shell that prepares the environment" in refusal(conda(broken))


def test_a_prefix_that_this_node_does_not_see(tmp_path: Path) -> None:
    """Publishing saw it; the node that the replica is launched on does not."""
    gone = make_conda(tmp_path / "gone")
    environment = conda(gone)
    assert f"has no {gone}/bin/python once" in refusal(environment, (f"rm -r '{gone}/bin'",))


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Module files, one of which has a program ``other-python``."""
    need_modules()
    root = tmp_path_factory.mktemp("modules")
    (root / "bin").mkdir()
    (root / "bin" / "other-python").symlink_to(sys.executable)
    (root / "bin" / "python3").symlink_to(sys.executable)
    make_module(root / "files", "first/1.0", "setenv FIRST {a b}\n")
    make_module(root / "files", "second/2.0", f"prereq first\nprepend-path PATH {root}/bin\nsetenv PYTHONPATH /lib/x\n")
    return root


def test_modules_are_loaded_in_their_order(modules: Path) -> None:
    environment = Environment(kind="module", modules=("first/1.0", "second"))
    found = told(environment, (f"module use {modules}/files",), arguments=("$x",))
    variables = found["variables"]
    assert isinstance(variables, dict)
    assert variables["FIRST"] == "a b"
    assert variables["PATH"].startswith(f"{modules}/bin:")
    assert variables["PYTHONPATH"] == "/lib/x"
    assert variables["LOADEDMODULES"] == "first/1.0:second/2.0"
    assert found["argv"] == ["-c", "$x"]
    assert found["input"] == "all of it\n"


def test_another_python_may_be_named(modules: Path) -> None:
    prologue = (f"module use {modules}/files",)
    for python in ("other-python", sys.executable):
        environment = Environment(kind="module", modules=("first", "second"), python=python)
        assert str(told(environment, prologue)["python"]).endswith(python)
    environment = Environment(kind="module", modules=("first",), python="other-python")
    assert "has no other-python once the environment is prepared; correct environment.python" in refusal(
        environment, prologue
    )


def test_a_module_that_is_not_there(modules: Path) -> None:
    environment = Environment(kind="module", modules=("first/1.0", "third/3.0"))
    why = refusal(environment, (f"module use {modules}/files",))
    assert f"on {os.uname().nodename} module load third/3.0 failed" in why
    assert "environments.prologue" in why


def test_a_node_without_a_module_command() -> None:
    environment = Environment(kind="module", modules=("first/1.0",))
    why = refusal(environment, ("unset -f module",))
    assert "has no module command, which environment.modules needs" in why
    assert "'source DIR/init/bash'" in why
