"""Servables that ask for the communicator of their replica's ranks."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from hpcserve.errors import ManifestError, ServableError
from hpcserve.servable.api import Context
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders.python import PythonLoader
from hpcserve.servable.manifest import Manifest, Ranks

HEAD = """
from hpcserve import Tensor, method
X = {"x": Tensor("int64", [-1])}
Y = {"y": Tensor("JSON")}
"""
FUNCTION = "@method(inputs=X, outputs=Y)\ndef go({}):\n    return {}\n"
CLASS = "class go:\n    @method(inputs=X, outputs=Y)\n    def go(self, {}):\n        return {}\n"


def load(directory: Path, code: str, context: Context | None = None) -> Loaded:
    (directory / "m.py").write_text(HEAD + code)
    manifest = Manifest(name="m", loader="python", entry="m:go")
    assert [one.name for one in PythonLoader().discover(manifest, directory)["go"].inputs] == ["x"]
    return PythonLoader().load(manifest, context or Context(directory, communicator=lambda: "all of us"))


def answer(loaded: Loaded) -> object:
    return loaded.run("go", {"x": np.arange(2)}, {})["y"].value


@pytest.mark.parametrize("text", [FUNCTION, CLASS])
@pytest.mark.parametrize("arguments", ["x, comm", "comm, x", "x, *, comm", "x, comm=None"])
def test_a_method_with_an_argument_comm_gets_it(tmp_path: Path, text: str, arguments: str) -> None:
    assert answer(load(tmp_path, text.format(arguments, "comm"))) == "all of us"


def test_it_goes_along_with_parameters(tmp_path: Path) -> None:
    loaded = load(tmp_path, FUNCTION.format("x, comm, *, parameters", "[comm, parameters]"))
    assert loaded.run("go", {"x": np.arange(2)}, {"a": 1})["y"].value == ["all of us", {"a": 1}]


def test_an_input_of_that_name_is_an_input(tmp_path: Path) -> None:
    code = '@method(inputs={"comm": Tensor("int64", [-1])}, outputs=Y)\ndef go(comm):\n    return comm.tolist()\n'
    (tmp_path / "m.py").write_text(HEAD + code)
    loaded = PythonLoader().load(Manifest(name="m", loader="python", entry="m:go"), Context(tmp_path))
    assert loaded.run("go", {"comm": np.arange(2)}, {})["y"].value == [0, 1]


def test_any_other_argument_is_still_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="name the arguments as the inputs"):
        load(tmp_path, FUNCTION.format("x, communicator", "1"))


def test_setup_has_the_ranks(tmp_path: Path) -> None:
    code = (
        "class go:\n    def setup(self, context):\n        self.found = [context.comm, context.rank, context.size]\n"
        "    @method(inputs=X, outputs=Y)\n    def go(self, x):\n        return self.found\n"
    )
    context = Context(tmp_path, rank=2, size=3, communicator=lambda: "all of us")
    assert answer(load(tmp_path, code, context)) == ["all of us", 2, 3]


def test_where_there_is_none_that_is_told_before_the_first_request(tmp_path: Path) -> None:
    def missing() -> object:
        raise ServableError("there is no mpi4py")

    with pytest.raises(ServableError, match="there is no mpi4py"):
        load(tmp_path, FUNCTION.format("x, comm", "1"), Context(tmp_path, communicator=missing))
    with pytest.raises(ServableError, match="outside of a replica"):
        load(tmp_path, FUNCTION.format("x, comm", "1"), Context(tmp_path))
    assert answer(load(tmp_path, FUNCTION.format("x", "1"), Context(tmp_path, communicator=missing))) == 1


def test_what_a_rank_returns_that_only_takes_part_is_not_looked_at(tmp_path: Path) -> None:
    loaded = load(tmp_path, FUNCTION.format("x", "object()"))
    loaded.take_part("go", {"x": np.arange(2)}, {})
    with pytest.raises(ServableError, match="ZeroDivisionError"):
        load(tmp_path, FUNCTION.format("x", "1 / 0")).take_part("go", {"x": np.arange(2)}, {})


@pytest.mark.parametrize("text", [FUNCTION, CLASS])
def test_comm_is_refused_where_each_rank_computes_a_share(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.py").write_text(HEAD + text.format("x, comm", "1"))
    manifest = Manifest(name="m", loader="python", entry="m:go", ranks=Ranks(size=4))
    told = r'has an argument comm, but with ranks.compute = "data-parallel" .* write ranks.compute = "collective" into'
    with pytest.raises(ManifestError, match=told):
        PythonLoader().discover(manifest, tmp_path)
    whole = msgspec.structs.replace(manifest, ranks=Ranks(size=4, compute="collective"))
    assert list(PythonLoader().discover(whole, tmp_path)) == ["go"]
