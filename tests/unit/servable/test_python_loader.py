from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve.errors import ManifestError, ServableError
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders.python import PythonLoader
from hpcserve.servable.manifest import Manifest, MethodSpec, TensorDecl

PythonServable = Callable[..., tuple[Manifest, Path]]
Load = Callable[[tuple[Manifest, Path]], Loaded]

X = TensorDecl(name="x", dtype="int64", shape=())
Y = TensorDecl(name="y", dtype="int64", shape=())
PLAIN = MethodSpec(inputs=(X,), outputs=(Y,))
ONE = '@method(inputs={"x": Tensor("int64")}, outputs={"y": Tensor("int64")})\n'


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("_servable_") or name == "its_helper":
            del sys.modules[name]


def test_a_class_runs_its_whole_life(python_servable: PythonServable, load: Load) -> None:
    manifest, directory = python_servable("""
        class Model:
            def setup(self, context):
                self.bias = int((context.directory / "bias.txt").read_text())
                self.directory, self.replica = context.directory, context.replica
            @method(inputs={"x": Tensor("int64")}, outputs={"y": Tensor("int64"), "by": Tensor("JSON")})
            def predict(self, x):
                return {"y": x + self.bias, "by": self.replica}
            def undeclared(self, x): ...
            def teardown(self):
                (self.directory / "ended").touch()
        """)
    (directory / "bias.txt").write_text("40")
    loaded = load((manifest, directory))
    assert list(loaded.methods) == ["predict"]
    outputs = loaded.run("predict", {"x": np.array(2)}, {})
    assert outputs["y"] == 42
    assert outputs["by"].value == "r1"
    loaded.teardown()
    assert (directory / "ended").exists()


def test_setup_without_context_and_no_teardown(python_servable: PythonServable, load: Load) -> None:
    loaded = load(
        python_servable(f"""
        class Model:
            def setup(self): self.bias = 1
            {ONE.strip()}
            def predict(self, x): return x + self.bias
        """)
    )
    assert loaded.run("predict", {"x": np.array(2)}, {})["y"] == 3
    loaded.teardown()


def test_a_function_is_a_method(python_servable: PythonServable, load: Load) -> None:
    loaded = load(python_servable(ONE + "def double(x): return 2 * x", entry="model:double"))
    assert list(loaded.methods) == ["double"]
    assert loaded.run("double", {"x": np.array(4)}, {})["y"] == 8


def test_an_undecorated_function_is_declared_by_the_manifest(python_servable: PythonServable, load: Load) -> None:
    loaded = load(python_servable("def f(x): return x", entry="model:f", methods={"predict": PLAIN}))
    assert list(loaded.methods) == ["predict"]
    assert loaded.run("predict", {"x": np.array(4)}, {})["y"] == 4


def test_an_undecorated_method_is_declared_by_the_manifest(python_servable: PythonServable, load: Load) -> None:
    source = "class Model:\n    def predict(self, x): return x\n    @staticmethod\n    def fixed(x): return -x\n"
    loaded = load(python_servable(source, methods={"predict": PLAIN, "fixed": PLAIN}))
    assert loaded.run("predict", {"x": np.array(4)}, {})["y"] == 4
    assert loaded.run("fixed", {"x": np.array(4)}, {})["y"] == -4


def test_parameters_reach_a_method_that_takes_them(python_servable: PythonServable, load: Load) -> None:
    manifest, directory = python_servable(ONE + "def f(x, *, parameters): return x * parameters['by']", entry="model:f")
    assert PythonLoader().discover(manifest, directory)["f"].parameters
    assert load((manifest, directory)).run("f", {"x": np.array(4)}, {"by": 3})["y"] == 12


def test_inherited_methods_count(python_servable: PythonServable, load: Load) -> None:
    source = f"class Base:\n    {ONE}    def predict(self, x): return x\nclass Model(Base): pass\n"
    assert list(load(python_servable(source)).methods) == ["predict"]


def test_two_servables_may_have_modules_of_one_name(python_servable: PythonServable, load: Load) -> None:
    first = load(python_servable(ONE + "def f(x): return x + 1", entry="model:f", where="a"))
    second = load(python_servable(ONE + "def f(x): return x + 2", entry="model:f", where="b"))
    assert first.run("f", {"x": np.array(0)}, {})["y"] == 1
    assert second.run("f", {"x": np.array(0)}, {})["y"] == 2
    assert "model" not in sys.modules


def test_a_servable_imports_its_own_helpers(python_servable: PythonServable, load: Load) -> None:
    manifest, directory = python_servable(
        "from its_helper import shift\n" + ONE + "def f(x): return shift(x)", entry="model:f"
    )
    (directory / "its_helper.py").write_text("def shift(x): return x + 7\n")
    assert load((manifest, directory)).run("f", {"x": np.array(0)}, {})["y"] == 7


def test_dataclasses_work_in_a_servable(python_servable: PythonServable, load: Load) -> None:
    """dataclasses look their module up in sys.modules."""
    source = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass P:\n    a: int\n"
    manifest, directory = python_servable("", entry="model:f")
    (directory / "model.py").write_text(
        source + "from hpcserve import Tensor, method\n" + ONE + "def f(x): return P(int(x)).a"
    )
    assert load((manifest, directory)).run("f", {"x": np.array(5)}, {})["y"] == 5


@pytest.mark.parametrize(
    ("source", "entry", "methods", "message"),
    [
        (
            "class Modle: pass",
            "model:Model",
            {},
            "entry: 'model:Model': no 'Model' in the module; did you mean 'Modle'",
        ),
        ("Model = 3", "model:Model", {}, "entry: 'model:Model' is a int, not a class or a function"),
        ("class Model: pass", "model:Model", {}, "class Model declares no methods; decorate one with @method"),
        ("def f(x): pass", "model:f", {}, "function 'f' declares nothing; decorate it with @method"),
        ("def f(x): pass", "model:f", {"a": PLAIN, "b": PLAIN}, "methods: a, b: the function 'f' is one method"),
        (
            "class Model:\n    def predict(self, x): pass",
            "model:Model",
            {"prodict": PLAIN},
            "methods.prodict: class Model has no method 'prodict'",
        ),
        (ONE + "def f(y): pass", "model:f", {}, "f(y) does not fit its inputs (x): missing a required argument: 'y'"),
        (ONE + "def f(x, z): pass", "model:f", {}, "missing a required argument: 'z'"),
        (ONE + "def f(): pass", "model:f", {}, "got an unexpected keyword argument 'x'"),
        (ONE + "def f(x, /): pass", "model:f", {}, "does not fit its inputs"),
        (ONE + "async def f(x): pass", "model:f", {}, "f: a method must be a plain function"),
        (ONE + "async def f(x): yield x", "model:f", {}, "f: a method must be a plain function"),
        (ONE + "def _f(x): pass", "model:_f", {}, "'_f' cannot be a method's name"),
        (
            ONE + "def f(x): pass",
            "model:f",
            {"f": MethodSpec(inputs=(X,), outputs=(X,))},
            "methods.f: servable.toml and @method differ",
        ),
        (
            "def f(x): pass",
            "model:f",
            {"f": MethodSpec(inputs=(X,), outputs=(Y,), parameters=True)},
            "methods.f: parameters = true, but it has no keyword-only argument",
        ),
        ('method(inputs={"x": Tensor("real")}, outputs={})(len)', "model:f", {}, "unknown dtype 'real'"),
    ],
)
def test_code_that_contradicts_the_manifest(
    python_servable: PythonServable, source: str, entry: str, methods: dict[str, MethodSpec], message: str
) -> None:
    manifest, directory = python_servable(source, entry=entry, methods=methods)
    with pytest.raises(ManifestError, match=re.escape(message)):
        PythonLoader().discover(manifest, directory)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "entry: the python loader needs entry"),
        ("model", "entry: 'model' is not \"module:Class\""),
        ("model:", "is not"),
        ("../model:Model", "is not"),
        ("/model:Model", "is not"),
        ("a.b:Model", "is not"),
        ("model:Model\n", "is not"),
        ("nothing:Model", "entry: no file 'nothing.py'"),
        ("folder:Model", "entry: 'folder.py' is not a file"),
        ("outside:Model", "entry: 'outside.py' is a link to .*, outside the directory"),
    ],
)
def test_bad_entries(tmp_path: Path, entry: str | None, message: str) -> None:
    directory = tmp_path / "servable"
    (directory / "folder.py").mkdir(parents=True)
    (tmp_path / "real.py").touch()
    (directory / "outside.py").symlink_to(tmp_path / "real.py")
    with pytest.raises(ManifestError, match=message):
        PythonLoader().check(Manifest(name="a", loader="python", entry=entry), directory)


def test_a_file_has_no_meaning(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    with pytest.raises(ManifestError, match="file: the python loader takes none"):
        PythonLoader().check(Manifest(name="a", loader="python", entry="a:b", file="c"), tmp_path)


FAILS_TO_BEGIN = """
class Model:
    def __init__(self): raise ValueError('no')
    @method(inputs={}, outputs={})
    def f(self): ...
"""
FAILS_IN_SETUP = """
class Model:
    def setup(self, context): self.missing
    @method(inputs={}, outputs={})
    def f(self): ...
"""
INTERRUPTS_SETUP = """
class Model:
    def setup(self, context): raise KeyboardInterrupt
    @method(inputs={}, outputs={})
    def f(self): ...
"""


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("import no_such_module_at_all", "importing model.py failed: ModuleNotFoundError", "no_such_module_at_all"),
        ("def f(:", "importing model.py failed: .*SyntaxError", "def f"),
        ("raise SystemExit(3)", "importing model.py failed: SystemExit: 3", "raise SystemExit"),
        ("raise KeyboardInterrupt", "importing model.py failed: KeyboardInterrupt", "raise KeyboardInterrupt"),
        (INTERRUPTS_SETUP, "Model.setup failed: KeyboardInterrupt", "in setup"),
        (FAILS_TO_BEGIN, r"Model\(\) failed: ValueError: no", "in __init__"),
        (FAILS_IN_SETUP, "Model.setup failed: AttributeError: ", "in setup"),
    ],
)
def test_failing_code_comes_with_its_own_traceback(
    python_servable: PythonServable, load: Load, source: str, message: str, line: str
) -> None:
    with pytest.raises(ServableError, match=f"(?s){message}") as caught:
        load(python_servable(source))
    traceback = caught.value.remote_traceback
    assert traceback is not None
    assert line in traceback
    assert "hpcserve/servable" not in traceback


def test_a_failed_import_leaves_no_module(python_servable: PythonServable, load: Load) -> None:
    servable = python_servable("raise ValueError(1)")
    before = set(sys.modules)
    with pytest.raises(ServableError):
        load(servable)
    assert not [name for name in set(sys.modules) - before if name.startswith("_servable_")]
