from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcserve.servable.environment import argv_for
from hpcserve.servable.manifest import Environment, Manifest, to_json

PythonServable = Callable[..., tuple[Manifest, Path]]

GOOD = '@method(inputs={"x": Tensor("int64")}, outputs={"y": Tensor("int64")})\ndef f(x): return x\n'


def inspect(manifest_json: str, directory: Path) -> tuple[int, str, str]:
    argv = argv_for(Environment(), "hpcserve.servable.inspect", str(directory))
    result = subprocess.run(argv, input=manifest_json, capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, result.stdout, result.stderr


def answer(source: str, python_servable: PythonServable) -> tuple[int, dict[str, Any], str]:
    manifest, directory = python_servable(source, entry="model:f")
    code, stdout, stderr = inspect(to_json(manifest), directory)
    assert stdout.count("\n") == 1
    return code, json.loads(stdout), stderr


def test_the_declared_methods_join_the_manifest(python_servable: PythonServable) -> None:
    code, found, _ = answer(GOOD, python_servable)
    assert code == 0
    assert found["message"] == ""
    assert found["manifest"]["name"] == "test"
    assert found["manifest"]["methods"] == {
        "f": {
            "inputs": [{"name": "x", "dtype": "int64", "shape": []}],
            "outputs": [{"name": "y", "dtype": "int64", "shape": []}],
            "idempotent": True,
            "batchable": False,
            "parameters": False,
            "batching": {
                "max_batch_size": 256,
                "max_wait_ms": 0.0,
                "preferred_batch_sizes": [],
                "pad": {},
                "cut": {},
            },
            "stream": False,
            "launches": False,
        }
    }


@pytest.mark.parametrize(
    "noise",
    [
        "print('noise')",
        "import os; os.write(1, b'noise\\n')",
        "import subprocess; subprocess.run(['echo', 'noise'])",
        "import sys; sys.stdout.write('noise'); sys.stdout = None",
        "import atexit; atexit.register(print, 'late'); print('noise')",
    ],
)
def test_what_the_servable_prints_goes_to_the_log(python_servable: PythonServable, noise: str) -> None:
    code, found, stderr = answer(f"{noise}\n{GOOD}", python_servable)
    assert code == 0
    assert list(found["manifest"]["methods"]) == ["f"]
    assert "noise" in stderr


def test_a_thread_that_never_ends_does_not_hold_the_answer(python_servable: PythonServable) -> None:
    code, _, _ = answer(
        f"import threading\nthreading.Thread(target=threading.Event().wait).start()\n{GOOD}", python_servable
    )
    assert code == 0


def test_no_bytecode_is_left_in_the_directory(python_servable: PythonServable) -> None:
    manifest, directory = python_servable(GOOD, entry="model:f")
    inspect(to_json(manifest), directory)
    assert os.listdir(directory) == ["model.py"]


def test_a_failure_is_an_answer_too(python_servable: PythonServable) -> None:
    code, found, _ = answer("def helper():\n    raise ValueError('no luck')\nhelper()\n", python_servable)
    assert code == 1
    assert found["manifest"] is None
    assert found["message"] == "importing model.py failed: ValueError: no luck"
    assert "in helper" in found["traceback"]


def test_a_wrong_manifest_is_an_answer_too(tmp_path: Path) -> None:
    code, stdout, _ = inspect("{}", tmp_path)
    assert code == 1
    assert "not a manifest" in json.loads(stdout)["message"]


def test_its_arguments_are_checked() -> None:
    argv = argv_for(Environment(), "hpcserve.servable.inspect")
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("usage: ")
