"""Results in HDF5 files: what is in them, what it costs, and what happens when there is no room."""

from __future__ import annotations

import hashlib
import math
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcserve.errors import InvalidOutput, ServiceUnavailable, StorageFull
from hpcserve.replica import hdf5
from hpcserve.replica.staged import Stager
from hpcserve.staging import hdf5 as reading
from hpcserve.types import Counter, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.jsonvalue import Json
from hpcserve.wire.launch import StagingRules

KEY = (SessionId(b"s" * 16), Counter(7))
NOISE = np.random.default_rng(0).standard_normal
MIB = 1 << 20


def work(reply: str = "staged", stage: str = "ada") -> wire.Work:
    return wire.Work(1, 1, KEY[0], KEY[1], "run", wire.EMPTY_LIST, reply=reply, stage=stage)  # type: ignore[arg-type]


def stager(directory: Path, **rules: Any) -> Stager:
    about = {"servable": "model", "version": "abc", "replica": "model-1", "image": "def"}
    return Stager(StagingRules(directory=str(directory), **rules), **about, most_inline_bytes=4 * MIB)


def staged(made: Stager, outputs: dict[str, Any], reply: str = "staged") -> wire.Staged | None:
    outlet = made.outlet(KEY, work(reply))
    assert outlet is not None
    return outlet("run", outputs)


ARRAYS = {
    "nothing": np.zeros((0, 3), np.float32),
    "a number": np.float64(2.5),
    "one": np.ones(1, np.int8),
    "noise, of several chunks": NOISE((70, 33, 129)),
    "not a multiple of the chunks": np.arange(1_000_003, dtype=np.int16),
    "strided": np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
    "the same everywhere": np.broadcast_to(np.float32(1.5), (300, 4000)),
    "zeros but for one": np.eye(1, 300_000, 299_999)[0],
    "negative zeros": np.full(300_000, -0.0),
    "columns first": np.asfortranarray(NOISE((200, 300))),
    "big-endian": np.arange(5, dtype=">i4"),
    "truth": np.array([True, False] * 9),
    "complex": np.full((5, 5), 1 + 2j, np.complex64),
    "half": np.arange(9, dtype=np.float16),
    "bfloat16": np.arange(9).astype(ml_dtypes.bfloat16),
    "float8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
}


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("name", ARRAYS)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path, name: str, compression: str) -> None:
    array = np.asarray(ARRAYS[name])
    found = staged(stager(tmp_path, compression=compression, chunk_bytes=65536), {"y": array})
    assert found is not None
    (tensor,) = found.tensors
    native = array.astype(array.dtype.newbyteorder("="))
    assert tensor.sha256 == hashlib.sha256(np.ascontiguousarray(native).tobytes()).hexdigest()
    back = reading.load(Path(found.path), found)["y"]
    assert (back.dtype, back.shape) == (native.dtype, native.shape)
    assert back.tobytes() == np.ascontiguousarray(native).tobytes()
    reading.verify(Path(found.path), found)
    assert reading.value(Path(found.path), tensor, ...).tobytes() == np.ascontiguousarray(native).tobytes()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 9), max_size=4),
    kind=st.sampled_from(["u1", "i2", "f4", "f8", "c16"]),
    chunk_bytes=st.integers(1, 4096),
    seed=st.integers(0, 99),
)
def test_any_shape_is_cut_into_chunks_and_put_together_again(
    shape: list[int], kind: str, chunk_bytes: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    octets = np.random.default_rng(seed).integers(0, 3, math.prod(shape) * np.dtype(kind).itemsize, np.uint8)
    array = octets.view(kind).reshape(shape)
    path = tmp_path_factory.mktemp("any") / "x.h5"
    tensors = hdf5.write(str(path), hdf5.tensors_of({"y": array}), {}, chunk_bytes=chunk_bytes, compress=True)
    found = wire.Staged(str(path), 0, tensors)
    assert reading.load(path, found)["y"].tobytes() == array.tobytes()


def test_a_chunk_is_one_piece_of_the_array() -> None:
    assert hdf5.chunk_shape((100, 200, 300), 8, 1 << 20) == (2, 200, 300)
    assert hdf5.chunk_shape((100, 200, 300), 8, 100_000) == (1, 40, 300)
    assert hdf5.chunk_shape((10, 1_000_000), 8, 100_000) == (1, 12_500)
    assert hdf5.chunk_shape((7,), 16, 4) == (1,)
    assert hdf5.chunk_shape((500, 1_000_000), 4, 1 << 20) == (1, 250_000), "not 262144, of whose last 48576 are over"


def test_plain_h5py_reads_it_and_it_says_what_it_is(tmp_path: Path) -> None:
    array = np.linspace(0, 1, 200_000).astype(np.float32)
    found = staged(stager(tmp_path), {"y": array, "text": np.array([b"a\0", "ä"], object), "j": Json({"a": 1})})
    assert found is not None
    with h5py.File(found.path) as file:
        assert np.array_equal(file["y"][()], array)
        assert file["y"].compression == "gzip"
        assert dict(file.attrs)["servable"] == "model"
        assert {"version": "abc", "image": "def", "method": "run", "replica": "model-1"}.items() <= dict(
            file.attrs
        ).items()
        assert file.attrs["request"] == f"{KEY[0].hex()}/7"
        assert file["text"].attrs["dtype"] == "BYTES"
    back = reading.load(Path(found.path), found)
    assert (back["text"].tolist(), back["j"]) == ([b"a\0", "ä".encode()], {"a": 1})
    assert stat.S_IMODE(Path(found.path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(found.path).parent.stat().st_mode) == 0o700


def test_what_compresses_takes_less_and_what_does_not_hardly_more(tmp_path: Path) -> None:
    smooth = staged(stager(tmp_path), {"y": np.sin(np.linspace(0, 9, MIB)).astype(np.float32)})
    noise = staged(stager(tmp_path), {"y": NOISE(MIB, dtype=np.float32)})
    zeros = staged(stager(tmp_path), {"y": np.zeros(4 * MIB, np.uint8)})
    assert smooth is not None and noise is not None and zeros is not None  # noqa: PT018 (for mypy)
    assert smooth.size_bytes < 2 * MIB
    assert noise.size_bytes < 1.01 * 4 * MIB
    assert zeros.size_bytes < 100_000


def test_output_names_cannot_lead_anywhere(tmp_path: Path) -> None:
    outputs = {name: np.arange(3) + at for at, name in enumerate(("a/b", "..", "a%2Fb", ".", "/x"))}
    found = staged(stager(tmp_path), outputs)
    assert found is not None
    back = reading.load(Path(found.path), found)
    assert {name: value[0] for name, value in back.items()} == {name: value[0] for name, value in outputs.items()}


LARGER_THAN_MEMORY = """
import resource, sys
import h5py, numpy as np
from pathlib import Path
from tests.unit.replica.test_staged import stager, staged
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.servable.outputs import collect

made = stager(Path(sys.argv[1]))
y = np.memmap(sys.argv[2], np.uint8, "w+", shape=(1 << 30,))
y[::1 << 24] = 7
spec = MethodSpec(inputs=(), outputs=(TensorDecl(name="y", dtype="uint8", shape=(-1,)),))
in_use = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (in_use + (256 << 20),) * 2)
assert staged(made, collect("run", spec, y)) is not None
np.zeros(1 << 30, np.uint8)
"""


def test_a_result_in_a_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    """What a process may have is a quarter of it: the last line shows that this is so."""
    done = subprocess.run(
        [sys.executable, "-c", LARGER_THAN_MEMORY, str(tmp_path), str(tmp_path / "y")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "MemoryError" in done.stderr.splitlines()[-1], done.stderr
    assert "line 16, in <module>" in done.stderr, done.stderr
    [path] = (tmp_path / "ada").iterdir()
    with h5py.File(path) as file:
        assert file["y"].shape == (1 << 30,)
        assert file["y"][1 << 24] == 7


# --- which are staged ---------------------------------------------------------------------------------


def test_auto_stages_what_is_over_the_limit(tmp_path: Path) -> None:
    made = stager(tmp_path, inline_limit_bytes=1000)
    assert staged(made, {"y": np.zeros(1000, np.uint8)}, "auto") is None
    assert staged(made, {"y": np.zeros(1001, np.uint8)}, "auto") is not None
    assert staged(made, {"y": np.array([b"x" * 1000], object)}, "auto") is not None


def test_what_is_too_large_to_be_fetched_travels_in_its_message(tmp_path: Path) -> None:
    made = stager(tmp_path, inline_limit_bytes=1000, https_limit_bytes=MIB)
    assert staged(made, {"y": NOISE(MIB // 16)}, "https") is not None
    assert staged(made, {"y": NOISE(MIB // 4)}, "https") is None
    assert staged(made, {"y": NOISE(MIB)}, "https") is not None, "it does not fit into a message"


def test_a_file_that_is_larger_than_what_is_in_it_is_taken_back(tmp_path: Path) -> None:
    made = stager(tmp_path, inline_limit_bytes=1000, https_limit_bytes=MIB, quota_bytes=8 * MIB)
    assert staged(made, {"y": np.frombuffer(np.random.default_rng(0).bytes(MIB), np.uint8)}, "https") is None
    assert not list((tmp_path / "ada").iterdir())
    assert made.outlet(KEY, work("inline")) is None
    assert made.outlet(KEY, work("auto", stage="")) is None


@pytest.mark.parametrize(
    "dtype", ["S9", "U9", object, *([np.dtypes.StringDType()] if hasattr(np.dtypes, "StringDType") else [])]
)
def test_text_of_any_kind_is_staged(tmp_path: Path, dtype: Any) -> None:
    found = staged(stager(tmp_path), {"y": np.array(["a", "bcd"], dtype)})
    assert found is not None
    assert reading.load(Path(found.path), found)["y"].tolist() == [b"a", b"bcd"]


def test_what_cannot_travel_is_the_servables_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidOutput, match="cannot travel"):
        staged(stager(tmp_path), {"y": np.zeros(3, "datetime64[s]")})


# --- bad days -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if (
        shutil.which("mount") is None or subprocess.run(mount, check=False).returncode
    ):  # not root: a limit on the size of files is a full disk to one process
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, before[1]))
        yield tmp_path
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path, compression: str) -> None:
    made = stager(small_disk, compression=compression)
    with pytest.raises(StorageFull, match="a result of 8388608 bytes cannot be written to .*/ada: .*; make room"):
        staged(made, {"y": NOISE(MIB)})
    assert os.listdir(small_disk / "ada") == []
    assert staged(made, {"y": NOISE(100)}) is not None


def test_what_cannot_be_staged_travels_inline_if_it_fits(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = stager(small_disk, inline_limit_bytes=1000)
    assert staged(made, {"y": NOISE(MIB // 2 - 10)}, "auto") is None
    told = capsys.readouterr().err
    assert (
        told == f"a result of {8 * (MIB // 2 - 10)} bytes travels in its message, not in {small_disk}: storage_full\n"
    )
    assert "ada" not in told.replace(str(small_disk), ""), "all callers of the servable may read it"
    with pytest.raises(StorageFull):
        staged(made, {"y": NOISE(MIB)}, "auto")


def test_a_caller_has_a_quota(tmp_path: Path) -> None:
    made = stager(tmp_path, quota_bytes=3 * MIB)
    assert staged(made, {"y": NOISE(MIB // 4)}) is not None
    with pytest.raises(StorageFull, match=r"the staged results of ada take \d+ of 3145728 bytes"):
        staged(made, {"y": NOISE(MIB // 4)})
    outlet = made.outlet(KEY, work(stage="bob"))
    assert outlet is not None
    assert outlet("run", {"y": NOISE(MIB // 4)}) is not None


def test_what_a_servables_code_puts_into_subdirectories_takes_of_the_quota(tmp_path: Path) -> None:
    made = stager(tmp_path, quota_bytes=3 * MIB)
    (tmp_path / "ada" / "sub" / "of").mkdir(parents=True)
    hoard = tmp_path / "ada" / "sub" / "of" / "hoard"
    hoard.write_bytes(b"x" * 3 * MIB)
    with pytest.raises(StorageFull, match=r"the staged results of ada take \d+ of 3145728 bytes"):
        staged(made, {"y": np.arange(3)})
    hoard.unlink()
    assert staged(made, {"y": np.arange(3)}) is not None


def test_a_directory_that_is_gone_is_told_and_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="see that the directory is there") as caught:
        staged(stager(tmp_path / "gone"), {"y": np.arange(3)})
    assert caught.value.retryable
    (tmp_path / "gone").mkdir()
    assert staged(stager(tmp_path / "gone"), {"y": np.arange(3)}) is not None


def test_a_callers_directory_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ada").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServiceUnavailable):
        staged(stager(tmp_path), {"y": np.arange(3)})
    assert os.listdir(tmp_path / "elsewhere") == []


def test_in_a_container_the_directory_is_seen_elsewhere(tmp_path: Path) -> None:
    made = stager(Path("/site/staged"), seen={"/site/staged": str(tmp_path)})
    found = staged(made, {"y": np.arange(3)})
    assert found is not None
    assert found.path.startswith("/site/staged/ada/model-1-7-")
    assert (tmp_path / "ada" / Path(found.path).name).exists()


MANY = """
import re, sys
from pathlib import Path
import numpy as np
from hpcserve.replica import hdf5
block = np.arange(1 << 20, dtype=np.float32)  # 4 MiB, which stand for each of 5,120 rows
array = np.broadcast_to(block, (5 << 10, 1 << 20))
class Cheap:  # the hash of 20 GiB takes half a minute, and says nothing of memory
    update = staticmethod(lambda octets: None)
    hexdigest = staticmethod(lambda: "")
hdf5.hashlib.sha256 = Cheap
hdf5.zlib.compress = lambda octets, level: b"x"  # and so does compressing it
hdf5.write(sys.argv[1], hdf5.tensors_of({"y": array}), {}, chunk_bytes=1 << 22, compress=True)
# Not ru_maxrss, in which the memory of whoever has started this counts too.
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_twenty_gigabytes_are_never_in_memory(tmp_path: Path) -> None:
    """The benchmark of staging does it with all of the work that is left out here."""
    done = subprocess.run(
        [sys.executable, "-c", MANY, tmp_path / "y.h5"], check=True, stdout=subprocess.PIPE, timeout=110
    )
    assert int(done.stdout) < 300 << 10
    with h5py.File(tmp_path / "y.h5") as file:
        assert file["y"].nbytes == 20 << 30
        assert file["y"].id.get_num_chunks() == 5 << 10
