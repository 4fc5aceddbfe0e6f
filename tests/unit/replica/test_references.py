"""Inputs that lie in files: which are read, and which of the many ways out of a directory are refused."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import msgspec
import numpy as np
import pytest

from hpcserve.core.ledger import NEVER
from hpcserve.core.sitepaths import Located
from hpcserve.errors import DeadlineExceeded, HpcserveError, InvalidInput, PermissionDenied, ProtocolError
from hpcserve.replica import hdf5, inputfiles
from hpcserve.replica.references import References
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decoder
from hpcserve.wire.launch import StagingRules
from hpcserve.wire.reference import Reference
from hpcserve.wire.tensor import pack, unpack

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "secret").mkdir()
    np.save(tmp_path / "secret" / "x.npy", X)
    with h5py.File(tmp_path / "secret" / "x.h5", "w") as file:
        file["x"] = X
    return tmp_path / "mine"


def read(
    path: Path,
    dataset: str = "",
    *,
    below: Path | None = None,
    check: Callable[[msgspec.Raw], None] = lambda _specs: None,
    deadline: float = NEVER,
    clock: Callable[[], float] = time.monotonic,
    **rules: Any,
) -> Any:
    """The input that a reference becomes, for a caller who may read below the file's directory."""
    specs, frames = pack({"x": Reference(f"file:{path}"), "n": np.int64(3)})
    request = wire.Work(
        1,  # type: ignore[arg-type]
        1,
        b"",  # type: ignore[arg-type]
        1,  # type: ignore[arg-type]
        "run",
        specs,
        read_below=(str(below or path.parent),),
        references=(Located(str(path), dataset).uri,),
    )
    ready, given = References(StagingRules(**rules), clock).read(request, frames, check, deadline=deadline)
    assert ready.references == ()
    inputs = unpack(ready.tensors, given, writable=True)
    assert inputs["n"] == 3
    return inputs["x"]


# --- what is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [X, np.asfortranarray(X), X.astype(">f8"), np.zeros((0, 3)), np.float64(3.0), np.array([True, False])],
    ids=["plain", "columns first", "big-endian", "nothing", "a number", "truth"],
)
def test_an_array_is_read_as_it_is(mine: Path, array: Any) -> None:
    np.save(mine / "x.npy", array)
    with h5py.File(mine / "x.h5", "w") as file:
        file["a/b"] = array
        file["a/soft"] = h5py.SoftLink("b")
        file["again"] = h5py.SoftLink("/a/soft")
    for found in (read(mine / "x.npy"), read(mine / "x.h5", "/a/b"), read(mine / "x.h5", "again")):
        assert np.array_equal(found, array)
        assert found.dtype == np.asarray(array).dtype.newbyteorder("=")


def test_text_and_what_was_staged_are_read(mine: Path) -> None:
    with h5py.File(mine / "text.h5", "w") as file:
        file["x"] = ["a", "ä"]
    assert read(mine / "text.h5", "/x").tolist() == [b"a", "ä".encode()]
    outputs = {"y": X.astype(ml_dtypes.bfloat16), "t": np.array([b"a\0"], object)}
    hdf5.write(str(mine / "y.h5"), hdf5.tensors_of(outputs), {}, chunk_bytes=4096, compress=True)
    assert read(mine / "y.h5", "/y").tobytes() == outputs["y"].tobytes()
    assert read(mine / "y.h5", "/y").dtype == ml_dtypes.bfloat16
    assert read(mine / "y.h5", "/t").tolist() == [b"a\0"]


def test_the_only_data_set_needs_no_name(mine: Path) -> None:
    with h5py.File(mine / "x.h5", "w") as file:
        file["only"] = X
    assert np.array_equal(read(mine / "x.h5"), X)
    with h5py.File(mine / "x.h5", "a") as file:
        file["other"] = X
    with pytest.raises(InvalidInput, match=r"name one data set by #/NAME; it has: only, other"):
        read(mine / "x.h5")


def test_in_a_container_a_root_is_seen_elsewhere(mine: Path) -> None:
    np.save(mine / "x.npy", X)
    found = read(Path("/data/x.npy"), seen={"/data": str(mine)})
    assert np.array_equal(found, X)


def test_a_link_that_stays_below_is_followed(mine: Path) -> None:
    np.save(mine / "x.npy", X)
    (mine / "link.npy").symlink_to("x.npy")
    assert np.array_equal(read(mine / "link.npy"), X)


def test_a_callers_directory_that_has_become_a_link_leads_nowhere(tmp_path: Path) -> None:
    """Any container may put one in its place; where the site's own directory is, a link may say."""
    (tmp_path / "disk" / "bob").mkdir(parents=True)
    (tmp_path / "staged").symlink_to("disk")
    staged = tmp_path / "staged"
    np.save(staged / "bob" / "x.npy", X)
    rules: dict[str, Any] = {"directory": str(staged)}
    assert np.array_equal(read(staged / "bob" / "x.npy", **rules), X)
    (staged / "ada").symlink_to("bob")
    with pytest.raises(PermissionDenied, match="a symbolic link leads out of"):
        read(staged / "ada" / "x.npy", **rules)


# --- what leads out -----------------------------------------------------------------------------------


def a_link(mine: Path) -> tuple[str, str]:
    (mine / "x.npy").symlink_to(mine.parent / "secret" / "x.npy")
    return "x.npy", ""


def a_link_above(mine: Path) -> tuple[str, str]:
    (mine / "dir").symlink_to(mine.parent / "secret")
    return "dir/x.npy", ""


def an_external_link(mine: Path) -> tuple[str, str]:
    with h5py.File(mine / "x.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(mine.parent / "secret" / "x.h5"), "/x")
    return "x.h5", "/x"


def an_external_link_on_the_way(mine: Path) -> tuple[str, str]:
    with h5py.File(mine / "x.h5", "w") as file:
        file["group"] = h5py.ExternalLink(str(mine.parent / "secret" / "x.h5"), "/")
        file["soft"] = h5py.SoftLink("/group/x")
    return "x.h5", "/soft"


def external_storage(mine: Path) -> tuple[str, str]:
    with h5py.File(mine / "x.h5", "w") as file:
        secret = str(mine.parent / "secret" / "x.npy")
        file.create_dataset("x", (4,), np.float32, external=[(secret, 128, 16)])
    return "x.h5", "/x"


def a_virtual_data_set(mine: Path) -> tuple[str, str]:
    layout = h5py.VirtualLayout((3, 4), np.float32)
    layout[:] = h5py.VirtualSource(str(mine.parent / "secret" / "x.h5"), "x", (3, 4))
    with h5py.File(mine / "x.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    return "x.h5", "/x"


@pytest.mark.parametrize(
    "way",
    [a_link, a_link_above, an_external_link, an_external_link_on_the_way, external_storage, a_virtual_data_set],
)
def test_no_way_leads_to_what_is_another_ones(mine: Path, way: Any) -> None:
    name, dataset = way(mine)
    with pytest.raises(PermissionDenied):
        read(mine / name, dataset, below=mine)


# --- what cannot be read ------------------------------------------------------------------------------


def a_pipe(mine: Path) -> str:
    os.mkfifo(mine / "x.npy")
    return "no ordinary file"


def nothing(_mine: Path) -> str:
    return "No such file"


def a_cut_array(mine: Path) -> str:
    np.save(mine / "x.npy", X)
    os.truncate(mine / "x.npy", 150)
    return "the file ends after 22 of 48 bytes"


def objects(mine: Path) -> str:
    np.save(mine / "x.npy", np.array([{}], object), allow_pickle=True)
    return "Python objects, which are not read"


def rubbish(mine: Path) -> str:
    (mine / "x.npy").write_bytes(b"rubbish")
    return "cannot be read"


@pytest.mark.parametrize("kind", [a_pipe, nothing, a_cut_array, objects, rubbish])
def test_what_cannot_be_read_is_told(mine: Path, kind: Any) -> None:
    told = kind(mine)
    with pytest.raises(InvalidInput, match=told):
        read(mine / "x.npy")


def test_of_an_hdf5_file_it_is_told_what_is_wrong(mine: Path) -> None:
    (mine / "bad.h5").write_bytes(b"rubbish")
    with h5py.File(mine / "x.h5", "w") as file:
        file["group/x"] = X
        file["loop"] = h5py.SoftLink("/loop")
        file["compound"] = np.zeros(2, [("a", "i4")])
    for name, dataset, told in (
        ("bad.h5", "/x", "cannot be read"),
        ("x.h5", "/group", "it is no data set"),
        ("x.h5", "/group/y", "there is no 'y' in it"),
        ("x.h5", "/loop", "more than 16 links"),
        ("x.h5", "/compound", "cannot be an input"),
    ):
        with pytest.raises(InvalidInput, match=told):
            read(mine / name, dataset)


def test_no_more_is_read_than_is_allowed(mine: Path) -> None:
    np.save(mine / "x.npy", X)
    with h5py.File(mine / "x.h5", "w") as file:
        file.create_dataset("huge", (1 << 40,), np.float64, chunks=(1 << 20,))
    assert read(mine / "x.npy", reference_bytes=48) is not None
    for name, dataset in (("x.npy", ""), ("x.h5", "/huge")):
        with pytest.raises(InvalidInput, match="refer to less"):
            read(mine / name, dataset, reference_bytes=47)


# --- what is made to do harm --------------------------------------------------------------------------


def npy(path: Path, header: str, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> None:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    path.write_bytes(b"\x93NUMPY" + bytes(version) + length + header.encode() + content)


def of(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


BAD_HEADERS = {
    "not closed": "{'a': (",
    "descr is half a tuple": of("('<f4',)", "(1,)"),
    "descr with more than a field has": of("[('a', '<f4', 'x')]", "(1,)"),
    "deeply nested": "(" * 5000,
    "negative axes": of("'<f4'", "(-1, -5)"),
    "an axis that no machine has": of("'<f4'", f"(0, {10**29})"),
    "no bytes": of("'|S0'", "(50000000,)"),
    "too many axes": of("'<f4'", f"({'1, ' * 40})"),
    "dates": of("'<M8[ns]'", "(1,)"),
    "arrays of arrays": of("('<f4', (3,))", "(1,)"),
    "more than the file holds": of("'<f4'", "(100,)"),
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_a_header_that_is_none_is_its_request_s_error(mine: Path, kind: str) -> None:
    npy(mine / "x.npy", BAD_HEADERS[kind], b"12345678")
    with pytest.raises(InvalidInput, match=r"reference .*x\.npy"):
        read(mine / "x.npy")


def test_an_npy_file_of_an_unknown_version_is_refused(mine: Path) -> None:
    npy(mine / "x.npy", of("'<f4'", "(2,)"), b"12345678", version=(9, 9))
    with pytest.raises(InvalidInput, match="version"):
        read(mine / "x.npy")


def a_null_data_space(file: h5py.File) -> None:
    file["x"] = h5py.Empty("f4")


def an_opaque_type(file: h5py.File) -> None:
    h5py.h5d.create(file.id, b"x", h5py.h5t.create(h5py.h5t.OPAQUE, 16), h5py.h5s.create_simple((3,)))


def arrays_of_arrays(file: h5py.File) -> None:
    file.create_dataset("x", (1,), np.dtype(("f4", (3,))))


def another_filter(file: h5py.File) -> None:
    file.create_dataset("x", data=np.arange(99), scaleoffset=8)


@pytest.mark.parametrize("kind", [a_null_data_space, an_opaque_type, arrays_of_arrays, another_filter])
def test_an_odd_data_set_is_its_request_s_error(mine: Path, kind: Any) -> None:
    with h5py.File(mine / "x.h5", "w") as file:
        kind(file)
    with pytest.raises(InvalidInput, match=r"reference .*x\.h5#/x"):
        read(mine / "x.h5", "/x")


def test_a_damaged_object_is_its_request_s_error(mine: Path) -> None:
    with h5py.File(mine / "x.h5", "w") as file:
        file["x"] = X
        header = h5py.h5o.get_info(file["x"].id).addr
    octets = bytearray((mine / "x.h5").read_bytes())
    octets[header : header + 16] = b"\xff" * 16
    (mine / "x.h5").write_bytes(octets)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(mine / "x.h5", "/x")


@pytest.mark.parametrize(
    ("told", "shape"), [("bfloat16", [10**9]), ("bfloat16", 3), ("JSON", [4]), (["bfloat16"] * 2, [4]), ("float8", [4])]
)
def test_attributes_that_do_not_fit_tell_nothing(mine: Path, told: Any, shape: Any) -> None:
    with h5py.File(mine / "x.h5", "w") as file:
        file["x"] = np.arange(4, dtype=np.uint16)
        file["x"].attrs["dtype"], file["x"].attrs["shape"] = told, np.array(shape)
    assert read(mine / "x.h5").tolist() == [0, 1, 2, 3]
    assert read(mine / "x.h5").dtype == np.uint16


def test_what_stands_for_another_dtype_is_read_in_any_byte_order(mine: Path) -> None:
    with h5py.File(mine / "x.h5", "w") as file:
        file["x"] = np.array([0x3F80], ">u2")
        file["x"].attrs["dtype"], file["x"].attrs["shape"] = "bfloat16", np.array([1])
    assert read(mine / "x.h5").astype(float).tolist() == [1.0]


def a_chunk_for_one_element(path: Path) -> None:
    with h5py.File(path, "w") as file:
        made = file.create_dataset("x", (1,), "u1", chunks=(1 << 28,), maxshape=(None,), compression="gzip")
        made.id.write_direct_chunk((0,), deflated(1 << 28))


def a_chunk_of_too_much(path: Path) -> None:
    with h5py.File(path, "w") as file:
        made = file.create_dataset("x", (16,), "u1", chunks=(16,), compression="gzip")
        made.id.write_direct_chunk((0,), deflated(1 << 28))


def very_many_chunks(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (1 << 10, 1 << 10, 2), "u1", chunks=(1, 1, 1))


def very_many_texts(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (1 << 20,), h5py.string_dtype())
    os.truncate(path, 4 << 20)  # so that few may be read at once


def one_text_many_times(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (64,), h5py.string_dtype(), fillvalue="a" * 8_000_000)


def a_filter_twice(path: Path) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((16,))
    properties.set_deflate(9)
    properties.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
    with h5py.File(path, "w") as file:
        made = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((16,)), properties)
        made.write_direct_chunk((0,), zlib.compress(deflated(1 << 28)))


def deflated(zeros: int) -> bytes:
    stream = zlib.compressobj(9)
    return b"".join(stream.compress(bytes(1 << 20)) for _ in range(zeros >> 20)) + stream.flush()


READS = """
import os, re, sys
from pathlib import Path
import h5py
from hpcserve.errors import InvalidInput
from hpcserve.replica.inputfiles import found
def most_kib():  # not ru_maxrss, in which the memory of whoever has started this counts too
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = most_kib()
try:
    with found(os.open(sys.argv[1], os.O_RDONLY), sys.argv[1], "", 4 << 20) as tensor:
        tensor.read(4 << 20, lambda: None)
except InvalidInput as error:
    print(most_kib() - before, error.message)
"""


@pytest.mark.parametrize(
    "kind",
    [
        a_chunk_for_one_element,
        a_chunk_of_too_much,
        a_filter_twice,
        one_text_many_times,
        very_many_chunks,
        very_many_texts,
    ],
)
def test_little_in_a_file_does_not_become_much_in_memory(mine: Path, kind: Any) -> None:
    kind(mine / "x.h5")
    done = subprocess.run([sys.executable, "-c", READS, str(mine / "x.h5")], capture_output=True, text=True, check=True)
    grown_kib, _, told = done.stdout.partition(" ")
    assert "reference" in told, done
    assert int(grown_kib) < 100 << 10, told


def test_a_header_may_not_claim_to_be_endless(mine: Path) -> None:
    (mine / "x.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30))
    os.truncate(mine / "x.npy", 1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidInput):
        read(mine / "x.npy")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_chunks_of_any_usual_kind_are_read(mine: Path, compression: str | None) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 1000), np.uint8)
    for name, array in (("noise", noise), ("zeros", np.zeros((300, 1000), np.uint8))):
        with h5py.File(mine / f"{name}.h5", "w") as file:
            file.create_dataset(
                "x", data=array, chunks=(100, 1000), compression=compression, shuffle=True, fletcher32=True
            )
        assert np.array_equal(read(mine / f"{name}.h5", reference_bytes=300_000), array)


def test_many_chunks_are_read_in_pieces(mine: Path) -> None:
    array = np.random.default_rng(1).integers(0, 255, (70, 90, 3), np.uint8)
    with h5py.File(mine / "x.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(2, 1, 2))
    assert np.array_equal(read(mine / "x.h5"), array)


def test_texts_are_read_in_pieces(mine: Path) -> None:
    texts = np.array([f"{'ä' * (n % 7)}{n}" for n in range(3 * 50 * 7)], object).reshape(3, 50, 7)
    with h5py.File(mine / "x.h5", "w") as file:
        file.create_dataset("x", data=texts, dtype=h5py.string_dtype())
        file.create_dataset("one", data="alone")
    size_bytes = (mine / "x.h5").stat().st_size
    found = read(mine / "x.h5", "/x", reference_bytes=20 * size_bytes)
    assert found.tolist() == np.vectorize(str.encode, otypes=[object])(texts).tolist()
    assert read(mine / "x.h5", "/one").item() == b"alone"


# --- until when it is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "in columns", "chunked", "contiguous", "text", "tightly packed"])
def test_a_deadline_ends_what_is_being_read(mine: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The clock goes on by a second whenever it is asked: each file takes some, and more than it has."""
    monkeypatch.setattr(inputfiles, "AT_ONCE_BYTES", 4096)
    monkeypatch.setattr(inputfiles, "CHUNKS_AT_ONCE", 40)
    monkeypatch.setattr(inputfiles, "INFLATED", 1 << 30)
    array = np.arange(8000.0).reshape(80, 100)
    path = mine / ("x.npy" if kind in ("npy", "in columns") else "x.h5")
    if path.suffix == ".npy":
        np.save(path, np.asfortranarray(array) if kind == "in columns" else array)
    else:
        with h5py.File(path, "w") as file:
            match kind:
                case "text":
                    file.create_dataset("x", data=array.astype("S"), dtype=h5py.string_dtype())
                case "contiguous":
                    file.create_dataset("x", data=array)
                case _:
                    packing = {"compression": "gzip"} if kind == "tightly packed" else {}
                    file.create_dataset("x", data=array, chunks=(8, 50), **packing)
    asked = 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return float(asked)

    found = read(path, clock=clock)
    assert np.array_equal(found.astype(np.float64), array)
    needed = asked
    assert needed > 10
    for deadline in (1.0, needed / 2, needed):
        asked = 0
        with pytest.raises(DeadlineExceeded):
            read(path, clock=clock, deadline=deadline)
        assert asked == np.ceil(deadline)


# --- what its method says to it -----------------------------------------------------------------------


def test_what_a_method_does_not_take_is_not_read(mine: Path) -> None:
    np.save(mine / "x.npy", X)
    asked: list[Any] = []

    def refuses(specs: msgspec.Raw) -> None:
        asked.extend(decoder(tuple[wire.TensorSpec, ...])(specs))
        raise InvalidInput("the method takes none of that")

    with h5py.File(mine / "x.h5", "w") as file:
        file.create_dataset("x", (4, 5), np.float64, chunks=(4, 5), compression="gzip")
        file["x"].id.write_direct_chunk((0, 0), b"no deflate stream, as whoever reads it will see")
    with pytest.raises(InvalidInput, match="takes none"):
        read(mine / "x.h5", check=refuses)
    assert asked == [wire.TensorSpec("x", "float64", (4, 5)), wire.TensorSpec("n", "int64", ())]


def test_what_the_tensors_say_must_be_what_the_broker_has_looked_at() -> None:
    specs, frames = pack({"x": Reference("file:/etc/passwd")})
    for references in ((), ("/a#", "/b#")):
        request = wire.Work(1, 1, b"", 1, "run", specs, references=references)  # type: ignore[arg-type]
        with pytest.raises(ProtocolError):
            References(StagingRules()).read(request, frames, lambda _specs: None, deadline=NEVER)


def test_a_reference_is_checked_where_it_is_made() -> None:
    for uri in ("x.npy", "/x.npy", "http://host/x", "file:" + "x" * 5000, "file:/a\n.npy", "globus://c/a\tb"):
        with pytest.raises(HpcserveError):
            Reference(uri)
    assert decoder(tuple[wire.TensorSpec, ...])(pack({"x": Reference("file:/x")})[0])[0].dtype == "REFERENCE"
