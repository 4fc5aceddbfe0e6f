"""What the command line shows of a servable's own mistakes: a line, and below it the place in the code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.newcomer import User, user_in

MANIFEST = """\
name = "broken"
loader = "python"
entry = "broken:Broken"
"""
SYNTAX = """\
class Broken:
    def go(self x):
        return x
"""
RAISES = """\
from hpcserve import Tensor, method

WORDS = [f"line {number} of an error: {'why ' * 30}" for number in range(3)]

class Broken:
    @method(inputs={"x": Tensor("float32", [-1])}, outputs={"x": Tensor("float32", [-1])})
    def go(self, x):
        between = "\\n" if x[0] else " "
        raise ValueError(between.join(WORDS))
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with user_in(tmp_path_factory.mktemp("user")) as found:
        found.ok("up", "--detach")
        yield found
        found.ok("down")


def servable(directory: Path, code: str, **others: str) -> Path:
    directory.mkdir()
    (directory / "servable.toml").write_text(MANIFEST)
    for name, text in {"broken": code, **others}.items():
        (directory / f"{name}.py").write_text(text)
    return directory


def test_a_syntax_error_shows_file_line_and_code(user: User, tmp_path: Path) -> None:
    line, shown = user.fails(1, "publish", servable(tmp_path / "broken", SYNTAX)).split("\n", 1)
    assert line.startswith("error: servable 'broken': importing broken.py failed: SyntaxError: ")
    assert line.endswith("(broken.py, line 2)")
    place, code, mark, what = shown.splitlines()
    assert place.endswith('broken.py", line 2')
    assert code.strip() == "def go(self x):"
    assert set(mark.strip()) == {"^"}
    assert what.startswith("SyntaxError: ")


def test_an_import_that_fails_shows_where(user: User, tmp_path: Path) -> None:
    directory = servable(tmp_path / "broken", "import deeper\n", deeper="import json\nimport no_such_module\n")
    line, shown = user.fails(1, "publish", directory).split("\n", 1)
    assert line == (
        "error: servable 'broken': importing broken.py failed: ModuleNotFoundError: No module named 'no_such_module'"
    )
    lines = shown.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-3].endswith('deeper.py", line 2, in <module>')
    assert lines[-2].strip() == "import no_such_module"
    assert lines[-1] == "ModuleNotFoundError: No module named 'no_such_module'"


@pytest.mark.parametrize("given", [b"[1]", b"[0]"], ids=["lines", "one line"])
def test_a_long_error_is_said_once(user: User, tmp_path: Path, given: bytes) -> None:
    user.ok("publish", servable(tmp_path / "broken", RAISES))
    user.ok("deploy", "broken")
    said = user.fails(1, "run", "broken", "-i", "-", given=given)
    assert said.startswith("error: method 'go' failed: ValueError: line 0 of an error: why ")
    assert said.count("line 2 of an error") == 1
    assert len(said.splitlines()[0]) < 250


def test_a_setup_that_fails_says_what_to_do_and_a_long_error_once(user: User, tmp_path: Path) -> None:
    code = RAISES.replace("class Broken:", "class Broken:\n    def setup(self, context):\n        self.go([1])\n")
    user.ok("publish", servable(tmp_path / "broken", code))
    said = user.fails(1, "deploy", "broken", "--endpoint", "bad")
    first, line = said.splitlines()[:2]
    assert first.startswith("starting again after: ")
    assert line.startswith("error: deployment bad cannot start: ")
    assert line.endswith(" …; correct the servable, publish and deploy it again")
    assert said.count("line 2 of an error") == 1
