from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcserve.errors import ConfigError, ManifestError, StorageFull
from hpcserve.registry.content import digest_of, entries
from hpcserve.registry.vault import discard, keep, keep_image, place, sweep


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "sub" / "__pycache__").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "run.sh").touch(mode=0o755)
    (root / "sub" / "link").symlink_to(root / "a.txt")
    (root / ".git").mkdir()
    return root


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "shared"


def below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_the_copy_is_whole_and_read_only(source: Path, shared: Path) -> None:
    digest, kept, new = keep(source, shared)
    assert new
    assert kept == shared / "servables" / digest == place(shared, digest)
    assert below(kept) == {"a.txt", "sub", "sub/run.sh", "sub/link"}
    assert (kept / "sub" / "link").read_text() == "a"
    assert os.readlink(kept / "sub" / "link") == "../a.txt"
    modes = [stat.S_IMODE((kept / name).stat().st_mode) for name in ("a.txt", "sub/run.sh", "sub", ".")]
    assert modes == [0o400, 0o500, 0o700, 0o700]
    assert digest_of(kept, entries(kept)) == digest
    assert os.listdir(shared / "servables") == [digest]


def test_the_same_content_is_kept_once(source: Path, shared: Path) -> None:
    first = keep(source, shared)
    inode = (first[1] / "a.txt").stat().st_ino
    assert keep(source, shared) == (first[0], first[1], False)
    assert (first[1] / "a.txt").stat().st_ino == inode
    (source / "a.txt").write_text("b")
    digest, _, new = keep(source, shared)
    assert new
    assert digest != first[0]


def test_a_copy_that_lost_files_is_replaced(source: Path, shared: Path) -> None:
    digest, kept, _ = keep(source, shared)
    (kept / "a.txt").unlink()
    assert keep(source, shared) == (digest, kept, True)
    assert (kept / "a.txt").read_text() == "a"
    assert os.listdir(shared / "servables") == [digest]


def test_a_full_disk_leaves_nothing_behind(source: Path, small_disk: Path) -> None:
    kept = keep(source, small_disk)
    (source / "model.bin").write_bytes(os.urandom(2 << 20))
    with pytest.raises(StorageFull, match=rf"no room for 2097153 bytes in {small_disk}/servables: No space left"):
        keep(source, small_disk)
    assert os.listdir(small_disk / "servables") == [kept[0]]
    (source / "model.bin").write_bytes(b"small")
    assert keep(source, small_disk)[2]


def test_a_disk_that_was_full_before(source: Path, small_disk: Path, fill_disk: Callable[[Path], Path]) -> None:
    fill_disk(small_disk)
    with pytest.raises(StorageFull):
        keep(source, small_disk)


def test_a_directory_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write to .*file/servables, which lies in shared_dir"):
        keep(source, tmp_path / "file")


def test_an_unpublishable_source_leaves_nothing(source: Path, shared: Path) -> None:
    os.mkfifo(source / "fifo")
    with pytest.raises(ManifestError, match="FIFO"):
        keep(source, shared)
    assert not shared.exists()


def test_discard_and_sweep(source: Path, shared: Path) -> None:
    digest, kept, _ = keep(source, shared)
    (shared / "servables" / ".partial-abc" / "content").mkdir(parents=True)
    sweep(shared)
    assert os.listdir(shared / "servables") == [digest]
    discard(shared, digest)
    assert not kept.exists()
    discard(shared, digest)
    sweep(shared / "nowhere")


def test_an_image_is_kept_once_by_its_content(tmp_path: Path, shared: Path) -> None:
    image = tmp_path / "ada" / "model.sif"
    image.parent.mkdir()
    image.write_bytes(b"x" * 3_000_000)
    kept = keep_image(image, shared, tmp_path)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert kept == shared / "images" / f"{digest}.sif"
    assert kept.read_bytes() == image.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o400
    before = kept.stat()
    image.write_bytes(b"other")
    image.write_bytes(b"x" * 3_000_000)
    assert keep_image(image, shared, tmp_path) == kept
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert os.listdir(shared / "images") == [kept.name]


def test_no_image_is_kept_that_a_link_leads_to(tmp_path: Path, shared: Path) -> None:
    for owner in ("ada", "bob"):
        (tmp_path / owner).mkdir()
    (tmp_path / "bob" / "model.sif").write_text("bob's")
    (tmp_path / "ada" / "model.sif").symlink_to(tmp_path / "bob" / "model.sif")
    (tmp_path / "ada" / "dir").symlink_to(tmp_path / "bob")
    for path in ("ada/model.sif", "ada/dir/model.sif", "ada/missing.sif", "ada"):
        with pytest.raises(ManifestError, match="cannot read|not a regular file"):
            keep_image(tmp_path / path, shared, tmp_path)
    assert os.listdir(shared / "images") == []


def test_an_image_for_which_there_is_no_room_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "model.sif").write_bytes(b"x" * 3_000_000)
    with pytest.raises(StorageFull, match="no room for 3000000 bytes"):
        keep_image(tmp_path / "model.sif", small_disk, tmp_path)
    assert os.listdir(small_disk / "images") == []
