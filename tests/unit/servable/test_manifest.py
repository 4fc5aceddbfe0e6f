from __future__ import annotations

import keyword
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import ManifestError, UnknownMethod
from hpcserve.servable.manifest import (
    Batching,
    Environment,
    Manifest,
    MethodSpec,
    TensorDecl,
    from_json,
    from_table,
    method_named,
    to_json,
)
from hpcserve.wire.dtype_names import NAMES

X = {"name": "x", "dtype": "float64", "shape": [-1, 64]}
Y = {"name": "y", "dtype": "int64", "shape": [-1]}
PREDICT = {"inputs": [X], "outputs": [Y]}
GOOD = {"name": "digits", "loader": "sklearn", "file": "model.joblib", "methods": {"predict": PREDICT}}


def test_a_whole_table_becomes_a_manifest() -> None:
    table = {
        **GOOD,
        "description": "d",
        "environment": {"kind": "venv", "path": "/opt/venv"},
        "methods": {"predict": {**PREDICT, "idempotent": False, "batchable": True}},
    }
    assert from_table(table) == Manifest(
        name="digits",
        loader="sklearn",
        description="d",
        file="model.joblib",
        environment=Environment(kind="venv", path="/opt/venv"),
        methods={
            "predict": MethodSpec(
                inputs=(TensorDecl(name="x", dtype="float64", shape=(-1, 64)),),
                outputs=(TensorDecl(name="y", dtype="int64", shape=(-1,)),),
                idempotent=False,
                batchable=True,
            )
        },
    )


def predict(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "methods": {"predict": {**PREDICT, **changes}}}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({**GOOD, "nmae": "x"}, "servable.toml: unknown field 'nmae'; did you mean 'name'?"),
        (
            predict(inptus=[]),
            "servable.toml: methods.predict: unknown field 'inptus'; did you mean 'inputs'?",
        ),
        (
            predict(inputs=[X, {**Y, "shap": []}]),
            "servable.toml: methods.predict.inputs[1]: unknown field 'shap'; did you mean 'shape'?",
        ),
        (
            {**GOOD, "environment": {"kidn": "same"}},
            "servable.toml: environment: unknown field 'kidn'; did you mean 'kind'?",
        ),
        ({"loader": "python"}, "servable.toml: field 'name' is missing"),
        ({"name": "a"}, "servable.toml: field 'loader' is missing"),
        (predict(outputs=[{"name": "y"}]), "servable.toml: methods.predict.outputs[0]: field 'dtype' is missing"),
        ({**GOOD, "name": 3}, "servable.toml: name: expected `str`, got `int`"),
        ({**GOOD, "methods": []}, "servable.toml: methods: expected a table for each method, got []"),
        ({**GOOD, "methods": {"predict": 1}}, "servable.toml: methods.predict: expected `object`, got `int`"),
        (predict(idempotent="no"), "servable.toml: methods.predict.idempotent: expected `bool`, got `str`"),
        (
            predict(inputs=[{**X, "dtype": "flot64"}]),
            "servable.toml: methods.predict.inputs[0]: unknown dtype 'flot64'; did you mean 'float64'",
        ),
        (
            predict(inputs=[{**X, "shape": [-2]}]),
            "servable.toml: methods.predict.inputs[0]: shape [-2]: an axis is -1 (any length), 0 or more",
        ),
        (predict(inputs=[{**X, "shape": [1] * 33}]), "shape of 33 axes: at most 32 are allowed"),
        (predict(inputs=[{**X, "dtype": "JSON"}]), "a JSON value has shape []"),
        (predict(inputs=[X, X]), "servable.toml: methods.predict: two inputs are called 'x'"),
        (predict(outputs=[Y, Y]), "servable.toml: methods.predict: two outputs are called 'y'"),
        (predict(inputs=[{**X, "name": "parameters"}]), "an input cannot be called 'parameters'"),
        (predict(inputs=[{**X, "name": "no-way"}]), "'no-way' cannot be a tensor's name"),
        (predict(inputs=[{**X, "name": ""}]), "'' cannot be a tensor's name"),
        (predict(inputs=[{**X, "name": "class"}]), "'class' cannot be a tensor's name"),
        ({**GOOD, "methods": {"_run": PREDICT}}, "servable.toml: methods: '_run' cannot be a method's name"),
        ({**GOOD, "methods": {"a b": PREDICT}}, "'a b' cannot be a method's name"),
        (predict(batchable=True, inputs=[]), "batchable: needs at least one input and one output"),
        (predict(batchable=True, inputs=[{**X, "shape": [64]}]), "batchable: the first axis of 'x' must be -1"),
        (
            {**GOOD, "environment": {"kind": "docker"}},
            'environment.kind: expected "conda", "container", "module", "same" or "venv", got \'docker\'',
        ),
        ({**GOOD, "ranks": {"siz": 4}}, "servable.toml: ranks: unknown field 'siz'; did you mean 'size'?"),
        ({**GOOD, "ranks": {"x": 4}}, "ranks: unknown field 'x'; known: compute, gpus_per_rank, grace_s, nodes, size"),
        (
            {**GOOD, "ranks": {"compute": "data_parallel"}},
            'servable.toml: ranks.compute: expected "collective" or "data-parallel", got \'data_parallel\'',
        ),
        ({**GOOD, "ranks": {"size": 0}}, "servable.toml: ranks.size: expected `int` >= 1, got 0"),
        ({**GOOD, "warmup": [{}, {"fil": "x"}]}, "warmup[1]: unknown field 'fil'; did you mean 'fill' or 'file'?"),
        ({**GOOD, "warmup": [{"fill": "one"}]}, 'warmup[0].fill: expected "random" or "zeros", got \'one\''),
        (
            predict(batching={"max_wait": 1}),
            "methods.predict.batching: unknown field 'max_wait'; did you mean 'max_wait_ms'",
        ),
        (
            predict(batchable=True, batching={"max_batch_size": 0}),
            "methods.predict.batching.max_batch_size: expected `int` >= 1, got 0",
        ),
        ({**GOOD, "environment": {"kind": "venv"}}, 'environment: kind = "venv" needs a path'),
        ({**GOOD, "environment": {"kind": "venv", "path": "venv"}}, "environment: path 'venv' is relative"),
        ({**GOOD, "environment": {"path": "/venv"}}, "environment: path '/venv' has no meaning with kind = \"same\""),
        ({**GOOD, "environment": {"kind": "conda"}}, "needs a path, that of the conda environment's directory"),
        ({**GOOD, "environment": {"kind": "conda", "path": "x"}}, "give the whole path of the conda environment"),
        ({**GOOD, "environment": {"kind": "module"}}, 'kind = "module" needs modules, such as modules = ["python/'),
        ({**GOOD, "environment": {"modules": ["a"]}}, 'modules: has no meaning with kind = "same"; use kind = '),
        ({**GOOD, "environment": {"python": "p"}}, 'python: has no meaning with kind = "same"; use kind = "module"'),
        ({**GOOD, "environment": {"kind": "module", "path": "/x", "modules": ["a"]}}, "path '/x' has no meaning with"),
        *(
            ({**GOOD, "environment": {"kind": "module", "modules": [name]}}, f"modules: {name!r} is no module's name")
            for name in ("", "-f", "a b", "$(id)", "a;b", "a`b`", "~x", "a\n")
        ),
        *(
            ({**GOOD, "environment": {"kind": "module", "modules": ["a"], "python": name}}, "python: expected a prog")
            for name in ("", "-c", "bin/python", "python 3", "../python", "a;b")
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        from_table(table)


@pytest.mark.parametrize("name", ["", "A", "1a", "a.b", "../a", "a/b", "a b", "-a", "a" * 64, "a\n", "ä"])
def test_bad_servable_names_are_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="cannot be a servable's name"):
        from_table({**GOOD, "name": name})


@pytest.mark.parametrize("name", ["a", "a-b_c9", "a" * 63])
def test_good_servable_names_are_taken(name: str) -> None:
    assert from_table({**GOOD, "name": name}).name == name


identifiers = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name) and name != "parameters"
)
tensors = st.builds(
    lambda name, dtype, shape: TensorDecl(name=name, dtype=dtype, shape=() if dtype == "JSON" else tuple(shape)),
    identifiers,
    st.sampled_from(sorted(NAMES)),
    st.lists(st.integers(-1, 1000), max_size=5),
)
specs = st.builds(
    lambda ins, outs, idempotent, parameters: MethodSpec(
        inputs=tuple(ins), outputs=tuple(outs), idempotent=idempotent, parameters=parameters
    ),
    st.lists(tensors, max_size=3, unique_by=lambda one: one.name),
    st.lists(tensors, max_size=3, unique_by=lambda one: one.name),
    st.booleans(),
    st.booleans(),
)


@given(st.dictionaries(identifiers, specs, max_size=3), st.text(max_size=20))
def test_json_round_trip(methods: dict[str, MethodSpec], description: str) -> None:
    manifest = Manifest(name="a", loader="python", description=description, entry="a:b", methods=methods)
    assert from_json(to_json(manifest)) == manifest


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "a"}', b"\xff", '{"name": "a", "loader": "b", "x": 1}'])
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(ManifestError, match="not a manifest"):
        from_json(text)


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    manifest = from_table(GOOD)
    assert method_named(manifest, "predict").inputs[0].name == "x"
    with pytest.raises(UnknownMethod, match="'digits' has no method 'predct'; did you mean 'predict'"):
        method_named(manifest, "predct")


@pytest.mark.parametrize(
    ("dtype", "value", "held"),
    [
        ("int32", -1, True),
        ("uint8", -1, False),
        ("uint8", 255, True),
        ("uint8", 256, False),
        ("int8", -129, False),
        ("int64", 0.5, False),
        ("int32", float("nan"), False),
        ("float32", float("nan"), True),
        ("bool", 1, True),
        ("bool", 2, False),
        ("BYTES", 0, False),
    ],
)
def test_what_fills_an_input_up_is_a_value_of_its_dtype(dtype: str, value: float, held: bool) -> None:  # noqa: FBT001
    def spec() -> MethodSpec:
        x = TensorDecl(name="x", dtype=dtype, shape=(-1, -1))
        y = TensorDecl(name="y", dtype="int64", shape=(-1,))
        return MethodSpec(inputs=(x,), outputs=(y,), batchable=True, batching=Batching(pad={"x": value}))

    if held:
        spec()
    else:
        with pytest.raises(ValueError, match="pad: input 'x'"):
            spec()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"kind": "container", "image": "net.sif"}, "needs the whole path of an image's file, got 'net.sif'"),
        ({"kind": "container"}, "needs the whole path of an image's file, and there is none"),
        ({"kind": "container", "image": "/net.sif", "path": "/venv"}, "path '/venv' has no meaning"),
        (
            {"kind": "venv", "path": "/venv", "image": "/net.sif"},
            'image: has no meaning with kind = "venv"; use',
        ),
        ({"kind": "container", "image": "/a", "build": {"base": "b"}}, "base 'b': expected the whole path of an image"),
        ({"kind": "container", "image": "/a", "build": {"base": ["/b"]}}, "base '/b': expected the whole path"),
        ({"kind": "container", "image": "/a", "build": {"base": "torch 2"}}, "base 'torch 2': expected the whole path"),
        (
            {"kind": "container", "image": "/a", "build": {"base": ["mpich", "openmpi"]}},
            "base ['mpich', 'openmpi']: expected each name once, and one MPI",
        ),
        ({"kind": "container", "image": "/a", "build": {"files": ["../a:/b"]}}, "files: expected SOURCE:/TARGET"),
        ({"kind": "container", "image": "/a", "build": {"files": ["a:/b c"]}}, "files: expected SOURCE:/TARGET"),
        (
            {"kind": "container", "image": "/a", "build": {"post": ["%post"]}},
            "'%post': expected one requirement or one",
        ),
        ({"kind": "container", "image": "/a", "build": {"bas": "/b"}}, "unknown field 'bas'; did you mean 'base'?"),
        ({"python": "python3.12"}, "python: has no meaning with"),
    ],
)
def test_an_image_and_a_path_are_for_their_own_kinds(environment: dict[str, Any], told: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(told)):
        from_table({"name": "a", "loader": "python", "entry": "a:b", "environment": environment})
