from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hpcserve.errors import InvalidOutput, ManifestError, ServableError
from hpcserve.servable.api import Context
from hpcserve.servable.loaders.entry import target_of
from hpcserve.servable.loaders.torch import TorchLoader
from hpcserve.servable.manifest import Batching, Manifest, MethodSpec, Ranks, TensorDecl, Torch, to_json

X = TensorDecl(name="x", dtype="float32", shape=(-1, 3))
K = TensorDecl(name="k", dtype="float32", shape=(-1, 1))
Y = TensorDecl(name="y", dtype="float32", shape=(-1, 2))
Z = TensorDecl(name="z", dtype="float32", shape=(-1, 1))
PREDICT = MethodSpec(inputs=(X,), outputs=(Y,), batchable=True)
SAMPLES = np.arange(12, dtype=np.float32).reshape(4, 3)
MODEL = """
import torch

class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)

    def both(self, k, x):
        return self.layer(x) * k, k

    def named(self, x):
        return {"z": x[:, :1], "y": self.layer(x), "more": x}

    def text(self, x):
        return "y"

def make():
    return Linear()

def no_module():
    return 1

def broken():
    raise ValueError("no weights today")
"""


class Made:
    """A directory with a model of each kind, and what that model computes."""

    def __init__(self, directory: Path) -> None:
        import torch

        torch.manual_seed(1)
        self.directory = directory
        (directory / "model.py").write_text(MODEL)
        model = target_of(Manifest(name="a", loader="torch", entry="model:make"), directory)().eval()
        batch = torch.export.Dim("batch")
        with torch.inference_mode():
            self.expected = model(torch.from_numpy(SAMPLES)).numpy()
        torch.save(model.state_dict(), directory / "weights.pt")
        torch.save({"other": torch.zeros(1)}, directory / "others.pt")
        torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2)), directory / "pickled.pt")
        torch.save([torch.zeros(1)], directory / "list.pt")
        torch.jit.trace(model, torch.zeros(2, 3)).save(  # type: ignore[no-untyped-call]  # torch's own
            str(directory / "model.pt")
        )
        exported = torch.export.export(model, (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
        torch.export.save(exported, directory / "model.pt2")
        (directory / "broken.pt").write_bytes(b"no model")

    def load(self, **fields: Any) -> Any:
        return TorchLoader().load(manifest(**fields), Context(self.directory))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is old, and models of it are many
        return Made(tmp_path_factory.mktemp("torch"))


def manifest(**fields: Any) -> Manifest:
    return Manifest(**({"name": "a", "loader": "torch", "methods": {"predict": PREDICT}} | fields))


CODE = {"entry": "model:make", "file": "weights.pt"}
GRAPHS = {
    "entry": "model:make",
    "torch": Torch(cuda_graphs=True),
    "methods": {
        "predict": MethodSpec(inputs=(X,), outputs=(Y,), batchable=True, batching=Batching(preferred_batch_sizes=(4,)))
    },
}


@pytest.mark.parametrize(
    "fields",
    [
        {"file": "model.pt"},
        {"file": "model.pt2"},
        CODE,
        {"file": "model.pt2", "torch": Torch(compile="eager")},
        CODE | {"torch": Torch(compile="aot_eager", device="cpu")},
        CODE | {"ranks": Ranks(gpus_per_rank=1), "torch": Torch(device="cpu")},
    ],
    ids=["TorchScript", "exported", "weights", "exported-compiled", "compiled", "on-the-cpu-all-the-same"],
)
def test_every_kind_of_model_computes(made: Made, fields: dict[str, Any]) -> None:
    whole = manifest(**fields)
    assert TorchLoader().discover(whole, made.directory) == whole.methods
    loaded = TorchLoader().load(whole, Context(made.directory))
    assert loaded.import_s >= 0
    for samples in (4, 1, 3):
        found = loaded.run("predict", {"x": SAMPLES[:samples]}, {})["y"]
        np.testing.assert_allclose(found, made.expected[:samples], rtol=1e-5)


def test_inputs_that_may_not_be_written_are_left_alone(made: Made) -> None:
    frozen = SAMPLES.copy()
    frozen.flags.writeable = False
    np.testing.assert_allclose(made.load(**CODE).run("predict", {"x": frozen}, {})["y"], made.expected, rtol=1e-5)


def test_methods_inputs_and_outputs_go_by_their_names(made: Made) -> None:
    methods = {
        "forward": PREDICT,
        "both": MethodSpec(inputs=(X, K), outputs=(Y, Z)),
        "named": MethodSpec(inputs=(X,), outputs=(Y, Z)),
    }
    loaded = made.load(**CODE, methods=methods)
    k = np.full((4, 1), 2, np.float32)
    np.testing.assert_allclose(loaded.run("forward", {"x": SAMPLES}, {})["y"], made.expected, rtol=1e-5)
    both = loaded.run("both", {"x": SAMPLES, "k": k}, {})
    np.testing.assert_allclose(both["y"], 2 * made.expected, rtol=1e-5)
    np.testing.assert_array_equal(both["z"], k)
    np.testing.assert_array_equal(loaded.run("named", {"x": SAMPLES}, {})["z"], SAMPLES[:, :1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_model_may_compute_in_another_dtype(made: Made, dtype: Any) -> None:
    found = made.load(**CODE, torch=Torch(dtype=dtype)).run("predict", {"x": SAMPLES}, {})["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, made.expected, rtol=0.05, atol=0.05)


def test_bfloat16_goes_in_and_comes_out(made: Made) -> None:
    decl = [TensorDecl(name=name, dtype="bfloat16", shape=(-1, width)) for name, width in (("x", 3), ("y", 2))]
    loaded = made.load(
        **CODE, torch=Torch(dtype="bfloat16"), methods={"predict": MethodSpec(inputs=(decl[0],), outputs=(decl[1],))}
    )
    found = loaded.run("predict", {"x": SAMPLES.astype(ml_dtypes.bfloat16)}, {})["y"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), made.expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, 'file: the torch loader needs file = "model.pt"'),
        ({"file": "no.pt"}, "file: no file 'no.pt'"),
        ({"file": "../model.pt"}, "leaves the servable's directory"),
        ({"file": "w.safetensors"}, "holds weights only"),
        ({"entry": "model"}, 'is not "module:Class" or "module:function"'),
        ({"entry": "model:make", "file": "model.pt2"}, "is a whole model: leave out entry"),
        ({"file": "model.pt", "methods": {}}, "methods: the torch loader needs at least one"),
        ({"file": "model.pt2", "torch": Torch(dtype="float16")}, "torch.dtype: 'model.pt2' computes in what it was"),
        ({"file": "model.pt", "torch": Torch(compile=True)}, "torch.compile: 'model.pt' is TorchScript"),
        ({"file": "model.pt", "torch": Torch(cuda_graphs=True)}, "needs a method with batching.preferred_batch_sizes"),
        (
            {
                "file": "model.pt",
                "torch": Torch(cuda_graphs=True),
                "methods": {
                    "predict": MethodSpec(
                        inputs=(TensorDecl(name="x", dtype="float32", shape=(-1, -1)),),
                        outputs=(Y,),
                        batchable=True,
                        batching=Batching(preferred_batch_sizes=(4,)),
                    )
                },
            },
            "input 'x' has axes of any length",
        ),
        (
            {"file": "model.pt", "methods": {"f": MethodSpec(inputs=(X,), outputs=(Y,), parameters=True)}},
            "methods.f: parameters: a model takes none",
        ),
        (
            {"file": "model.pt", "methods": {"f": MethodSpec(inputs=(X,), outputs=(Y,), launches=True)}},
            "methods.f: launches: leave it out",
        ),
        (
            {"file": "model.pt", "methods": {"f": MethodSpec(inputs=(X,), outputs=(Y,), stream=True)}},
            "methods.f: stream",
        ),
        (
            {
                "file": "model.pt",
                "methods": {
                    "f": MethodSpec(inputs=(TensorDecl(name="t", dtype="BYTES", shape=()),), outputs=(Y,)),
                },
            },
            "methods.f: 't': torch has no tensors of BYTES",
        ),
    ],
)
def test_bad_manifests(made: Made, fields: dict[str, Any], message: str) -> None:
    (made.directory / "w.safetensors").touch()
    with pytest.raises(ManifestError, match=re.escape(message)):
        TorchLoader().check(manifest(**fields), made.directory)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"file": "broken.pt"}, "cannot load broken.pt: "),
        ({"entry": "model:make", "file": "pickled.pt"}, "cannot load pickled.pt: .*weights_only"),
        ({"entry": "model:make", "file": "list.pt"}, "list.pt holds a list: save model.state_dict()"),
        ({"entry": "model:make", "file": "others.pt"}, "others.pt does not fit the module that entry makes"),
        ({"entry": "model:broken"}, r"broken\(\) failed: ValueError: no weights today"),
        ({"entry": "model:make", "torch": Torch(device="cuda")}, r'torch.device = "cuda": torch .* cannot use it here'),
        ({"entry": "model:make", "torch": Torch(device="nonsense")}, "cannot use it here"),
    ],
)
def test_what_cannot_be_loaded(made: Made, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ServableError, match="(?s)" + message):
        made.load(**fields)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"ranks": Ranks(gpus_per_rank=2)}, r"ranks\.gpus_per_rank = 2"),
        (GRAPHS, r"torch\.cuda_graphs = true"),
    ],
)
@pytest.mark.parametrize(
    ("cuda", "hip", "build"),
    [
        (None, None, "built without GPUs, sees no GPU here: have the servable's environment bring"),
        ("13.0", None, r"built for CUDA 13\.0, sees no GPU here: see whether the node's driver"),
        (None, "7.1", r"built for ROCm 7\.1, sees no GPU here"),
    ],
)
def test_who_asks_for_a_gpu_does_not_compute_on_the_cpu_unasked(
    made: Made, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], asked: str, cuda: Any, hip: Any, build: str
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    whole = manifest(**(CODE | fields))
    assert TorchLoader().discover(whole, made.directory), "a login node need not have one"
    with pytest.raises(ServableError, match=rf"{asked}, and torch {re.escape(torch.__version__)}, which is {build}"):
        made.load(**(CODE | fields))


def test_code_that_does_not_fit_the_manifest(made: Made) -> None:
    with pytest.raises(ManifestError, match="'model:no_module' made a int, not a torch.nn.Module"):
        made.load(entry="model:no_module")
    with pytest.raises(ManifestError, match="methods.bothe: Linear has no method 'bothe'; did you mean 'both'"):
        made.load(entry="model:make", methods={"forward": PREDICT, "bothe": PREDICT})


@pytest.mark.parametrize(
    ("method", "outputs", "message"),
    [
        ("named", (Y, K), "the model returned a dictionary of z, y, more; declared: y, k"),
        ("forward", (Y, Z), "the model returned one Tensor; declared: y, z"),
        ("text", (Y,), "output 'y' is a str, not a tensor"),
        ("forward", (Z,), "output 'z' has shape [4, 2], expected [any, 1]"),
    ],
)
def test_outputs_that_are_not_declared(made: Made, method: str, outputs: Any, message: str) -> None:
    loaded = made.load(entry="model:make", methods={method: MethodSpec(inputs=(X,), outputs=outputs)})
    with pytest.raises(InvalidOutput, match=re.escape(message)):
        loaded.run(method, {"x": SAMPLES}, {})


def test_missing_torch_names_the_extra(made: Made) -> None:
    program = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import from_json
try:
    loader_named("torch").discover(from_json(sys.argv[1]), Path({str(made.directory)!r}))
except Exception as error:
    print(type(error).__name__, error)
"""
    argv: list[Any] = [sys.executable, "-c", program, to_json(manifest(**CODE))]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.startswith("ServableError the torch loader needs torch, which is not installed")
    assert "pip install 'hpcserve[torch]'" in result.stdout


def test_the_table_belongs_to_this_loader() -> None:
    with pytest.raises(ValueError, match='torch: has a meaning only with loader = "torch", not with "python"'):
        manifest(loader="python", torch=Torch(compile=True))
    with pytest.raises(ValueError, match="device \"GPU 0\"|device 'GPU 0'"):
        Torch(device="GPU 0")
    with pytest.raises(ValueError, match='cuda_graphs: has no meaning with device = "cpu"'):
        Torch(device="cpu", cuda_graphs=True)
