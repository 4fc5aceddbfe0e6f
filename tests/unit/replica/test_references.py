"""Inputs that lie in files: which are read, and which of the many ways out of a directory are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from hpcserve.core.sitepaths import Located
from hpcserve.errors import HpcserveError, InvalidInput, PermissionDenied, ProtocolError
from hpcserve.replica import hdf5
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


def read(path: Path, dataset: str = "", *, below: Path | None = None, **rules: Any) -> Any:
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
    ready, given = References(StagingRules(**rules)).read(request, frames)
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


def test_what_the_tensors_say_must_be_what_the_broker_has_looked_at() -> None:
    specs, frames = pack({"x": Reference("file:/etc/passwd")})
    for references in ((), ("/a#", "/b#")):
        request = wire.Work(1, 1, b"", 1, "run", specs, references=references)  # type: ignore[arg-type]
        with pytest.raises(ProtocolError):
            References(StagingRules()).read(request, frames)


def test_a_reference_is_checked_where_it_is_made() -> None:
    for uri in ("x.npy", "/x.npy", "http://host/x", "file:" + "x" * 5000):
        with pytest.raises(HpcserveError):
            Reference(uri)
    assert decoder(tuple[wire.TensorSpec, ...])(pack({"x": Reference("file:/x")})[0])[0].dtype == "REFERENCE"
