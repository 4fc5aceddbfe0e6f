from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import InvalidInput, InvalidOutput, ServableError, UnknownMethod
from hpcserve.servable.loaded import MAX_KNOWN_SIGNATURES, Loaded, Method
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.servable.tracebacks import MAX_CHARACTERS
from hpcserve.wire.tensor import Json, pack


def returning(value: Any, *outputs: tuple[str, str, tuple[int, ...]], parameters: bool = False) -> Loaded:
    """A servable whose only method ``m`` returns ``value``, or what it returns if it is callable."""
    spec = MethodSpec(
        inputs=(),
        outputs=tuple(TensorDecl(name=name, dtype=dtype, shape=shape) for name, dtype, shape in outputs),
        parameters=parameters,
    )
    return Loaded({"m": Method(spec, lambda inputs, parameters: value() if callable(value) else value)})


Y_INT = ("y", "int64", (-1,))
Y_FLOAT = ("y", "float32", (-1,))
Y_SMALL = ("y", "uint8", (-1,))
TEXT = ("y", "BYTES", (-1,))
DATA = ("y", "JSON", ())


@pytest.mark.parametrize(
    ("value", "output", "expected"),
    [
        (np.arange(3), Y_INT, np.arange(3)),
        ({"y": np.arange(3)}, Y_INT, np.arange(3)),
        ([1, 2], Y_INT, np.array([1, 2])),
        ((1, 2), Y_FLOAT, np.array([1, 2], np.float32)),
        ([0.5], Y_FLOAT, np.array([0.5], np.float32)),
        ([255], Y_SMALL, np.array([255], np.uint8)),
        ([], Y_SMALL, np.array([], np.uint8)),
        (np.float32(2), ("y", "float32", ()), np.float32(2)),
        (7, ("y", "int64", ()), np.array(7)),
        (True, ("y", "bool", ()), np.array(True)),
        (np.arange(3, dtype=">i8"), Y_INT, np.arange(3)),
        (np.ones((2, 3), np.float32)[:, 0], Y_FLOAT, np.ones(2, np.float32)),
        ([0.5], ("y", "bfloat16", (1,)), np.array([0.5], ml_dtypes.bfloat16)),
        (np.ones(2, ml_dtypes.bfloat16), ("y", "bfloat16", (2,)), np.ones(2, ml_dtypes.bfloat16)),
    ],
)
def test_what_becomes_the_declared_tensor(
    value: object, output: tuple[str, str, tuple[int, ...]], expected: np.ndarray[Any, Any]
) -> None:
    found = returning(value, output).run("m", {}, {})
    assert list(found) == ["y"]
    np.testing.assert_array_equal(found["y"], expected)
    assert found["y"].dtype.name == output[1]


@pytest.mark.parametrize(
    ("value", "shape", "elements"),
    [
        (b"a\0", (), [b"a\0"]),
        ("text", (), ["text"]),
        ([b"a\0", b"bcd"], (2,), [b"a\0", b"bcd"]),
        (np.array([b"ab", b"c"]), (2,), [b"ab", b"c"]),
        (np.array([b"ab", b""], dtype=object), (2,), [b"ab", b""]),
        ([], (0,), []),
    ],
)
def test_bytes(value: object, shape: tuple[int, ...], elements: list[bytes]) -> None:
    found = returning(value, ("y", "BYTES", shape)).run("m", {}, {})["y"]
    assert found.shape == shape
    assert found.ravel().tolist() == elements


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ([1, "a"], [1, "a"]), ({"z": 1}, {"z": 1}), ({"y": 1}, 1), ({}, {}), (Json({"y": 1}), {"y": 1})],
)
def test_json(value: object, expected: object) -> None:
    assert returning(value, DATA).run("m", {}, {}) == {"y": Json(expected)}


def test_the_outputs_can_be_packed() -> None:
    value = {"a": 1, "b": b"x", "c": {"k": [1]}}
    outputs = returning(value, ("a", "int64", ()), ("b", "BYTES", ()), ("c", "JSON", ())).run("m", {}, {})
    _, frames = pack(outputs)
    assert [bytes(frame) for frame in frames] == [b"\1" + bytes(7), b"\1\0\0\0x", b'{"k":[1]}']


def test_no_outputs() -> None:
    assert returning(None).run("m", {}, {}) == {}
    assert returning({}).run("m", {}, {}) == {}


@pytest.mark.parametrize(
    ("value", "outputs", "message"),
    [
        (np.ones(3), [Y_INT], "output 'y' has dtype float64, expected int64"),
        (np.ones((3, 1), np.int64), [Y_INT], "output 'y' has shape [3, 1], expected [any]"),
        (np.int32(3), [("y", "int64", ())], "output 'y' has dtype int32, expected int64"),
        ([1.5], [Y_INT], "float64 values do not fit"),
        ([256], [Y_SMALL], "cannot be y: uint8[any]"),
        ([[1], [1, 2]], [Y_INT], "returned for output 'y' a list that cannot be y: int64[any]"),
        ("text", [Y_INT], "returned for output 'y' a str"),
        (None, [Y_INT], "returned for output 'y' a NoneType"),
        (b"a", [TEXT], "output 'y' has shape [], expected [any]"),
        ([1], [TEXT], "each element must be bytes or text"),
        (np.ones(2), [TEXT], "each element must be bytes or text"),
        ({"z": 1}, [Y_INT], "method 'm' returned an unknown output 'z'; known: y"),
        ({"y": [1], "z": 1}, [Y_INT], "unknown output 'z'"),
        ({}, [Y_INT], "output 'y' missing: 0 given, 1 declared: y: int64[any]"),
        ({"y": [1]}, [Y_INT, ("why", "JSON", ())], "output 'why' missing: 1 given, 2 declared"),
        ([1], [Y_INT, ("z", "JSON", ())], "returned a list; return a dictionary of its 2 outputs"),
        (3, [], "returned a int; return a dictionary of its 0 outputs: none"),
        ({3: 1}, [Y_INT], "unknown output 3"),
    ],
)
def test_what_is_not_declared_is_named(
    value: object, outputs: list[tuple[str, str, tuple[int, ...]]], message: str
) -> None:
    with pytest.raises(InvalidOutput, match=re.escape(message)):
        returning(value, *outputs).run("m", {}, {})


@given(st.integers(-(2**70), 2**70), st.sampled_from(["int8", "uint8", "int64", "uint64"]))
def test_a_python_integer_is_kept_or_refused(value: int, dtype: str) -> None:
    servable = returning(value, ("y", dtype, ()))
    bounds = np.iinfo(dtype)
    if bounds.min <= value <= bounds.max:
        assert int(servable.run("m", {}, {})["y"]) == value
    else:
        with pytest.raises(InvalidOutput):
            servable.run("m", {}, {})


def test_each_new_shape_is_checked_however_many_there_were() -> None:
    sizes = iter([*range(MAX_KNOWN_SIGNATURES + 2), 0])
    spec = MethodSpec(inputs=(), outputs=(TensorDecl(name="y", dtype="int64", shape=(-1,)),))
    wrong = MethodSpec(inputs=(), outputs=(TensorDecl(name="y", dtype="int64", shape=(5,)),))
    loaded = Loaded(
        {
            "any": Method(spec, lambda inputs, parameters: np.zeros(next(sizes), np.int64)),
            "five": Method(wrong, lambda inputs, parameters: np.zeros(4, np.int64)),
        }
    )
    for _ in range(MAX_KNOWN_SIGNATURES + 2):
        loaded.run("any", {}, {})
    with pytest.raises(InvalidOutput, match="has shape \\[4\\], expected \\[5\\]"):
        loaded.run("five", {}, {})


@pytest.mark.parametrize(
    ("output", "right", "wrong"),
    [
        (Y_INT, np.zeros(2, np.int64), np.zeros(2, np.int32)),
        (Y_INT, np.zeros(2, np.int64), np.zeros((2, 1), np.int64)),
        (TEXT, np.array([b"a", "b"], object), np.array([b"a", 1], object)),
    ],
)
def test_what_was_right_once_says_nothing_of_what_differs(output: Any, right: Any, wrong: Any) -> None:
    answers = iter([right, right, wrong])
    loaded = returning(lambda: next(answers), output)
    assert loaded.run("m", {}, {})["y"] is right
    assert loaded.run("m", {}, {})["y"] is right
    with pytest.raises(InvalidOutput):
        loaded.run("m", {}, {})


def test_an_array_as_json_is_json_each_time() -> None:
    loaded = returning(np.arange(2), DATA)
    for _ in range(2):
        assert isinstance(loaded.run("m", {}, {})["y"], Json)


def test_an_unknown_method() -> None:
    with pytest.raises(UnknownMethod, match="no method 'n'; known: m"):
        returning(None).run("n", {}, {})


def test_parameters_for_a_method_without() -> None:
    with pytest.raises(InvalidInput, match="method 'm' takes no parameters; given: 'beta', 'top_k'"):
        returning(None).run("m", {}, {"top_k": 3, "beta": 1})
    assert returning(None, parameters=True).run("m", {}, {"top_k": 3}) == {}


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("by nought"), "method 'm' failed: ZeroDivisionError: by nought"),
        (SystemExit(3), "method 'm' failed: SystemExit: 3"),
        (KeyboardInterrupt(), "method 'm' failed: KeyboardInterrupt"),
        (asyncio.CancelledError(), "method 'm' failed: .*CancelledError"),
        (MemoryError(), "method 'm' failed: MemoryError"),
        (ValueError("x" * 100_000), "method 'm' failed: ValueError: xxx"),
    ],
)
def test_what_the_code_raises_comes_with_a_traceback(error: BaseException, message: str) -> None:
    with pytest.raises(ServableError, match=message) as caught:
        returning(raising(error)).run("m", {}, {})
    assert caught.value.code == "servable_error"
    assert caught.value.remote_traceback is not None
    assert type(error).__name__ in caught.value.remote_traceback
    assert len(caught.value.remote_traceback) < MAX_CHARACTERS + 100
    assert len(caught.value.message) < 3000


def test_an_exception_that_cannot_be_shown() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(ServableError, match="Unspeakable: <exception str\\(\\) failed>"):
        returning(raising(Unspeakable())).run("m", {}, {})


@pytest.mark.parametrize("error", [InvalidInput("too dark"), ServableError("no such colour")])
def test_a_servable_may_speak_for_itself(error: ServableError) -> None:
    with pytest.raises(type(error)) as caught:
        returning(raising(error)).run("m", {}, {})
    assert caught.value is error


@pytest.mark.parametrize("error", [OSError("gone"), SystemExit("gone"), KeyboardInterrupt("gone")])
def test_a_failing_teardown(error: BaseException) -> None:
    loaded = Loaded({}, raising(error))
    with pytest.raises(ServableError, match=f"teardown failed: {type(error).__name__}: gone"):
        loaded.teardown()


# --- calls that are launched ---------------------------------------------------------------------------------------


def launching(pending: object) -> Loaded:
    """A servable whose one method launches what it is given."""
    spec = MethodSpec(inputs=(), outputs=(TensorDecl(name="n", dtype="int64", shape=()),), launches=True)
    return Loaded({"m": Method(spec, lambda inputs, parameters: pending)})


def test_a_launched_call_is_done_when_its_future_is() -> None:
    future: Future[int] = Future()
    launched = launching(future).launch("m", {}, {})
    assert not launched.done()
    future.set_result(7)
    assert launched.done()
    assert launched.result()["n"] == 7


def test_who_wants_one_answer_waits_for_a_launched_call() -> None:
    future: Future[int] = Future()
    future.set_result(7)
    assert launching(future).run("m", {}, {})["n"] == 7
    assert launching(8).run("m", {}, {})["n"] == 8, "it was there at once"


def test_a_launched_call_that_fails_is_done_and_says_why() -> None:
    class Lost:
        def done(self) -> bool:
            raise OSError("the device is lost")

        result = done

    launched = launching(Lost()).launch("m", {}, {})
    assert launched.done()
    with pytest.raises(ServableError, match="method 'm' failed: OSError: the device is lost") as caught:
        launched.result()
    assert "in done" in str(caught.value.remote_traceback)


def test_what_a_launched_call_comes_to_is_checked() -> None:
    with pytest.raises(InvalidOutput, match="output 'n'"):
        launching("seven").launch("m", {}, {}).result()
    with pytest.raises(InvalidInput, match="takes no parameters; given: 'a'"):
        launching(7).launch("m", {}, {"a": 1})
