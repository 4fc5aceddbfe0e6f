"""Staged results are kept until they are delivered, and some time longer; then they are removed, and nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Container
from pathlib import Path

import msgspec
import pytest

from hpcserve.auth import keys
from hpcserve.config import Site, Staging, load_site
from hpcserve.core.retention import staged_until_s
from hpcserve.daemon.controller import staged as controller_staged
from hpcserve.daemon.controller.staged import LEFT_S, StagedFiles
from hpcserve.daemon.controller.storage import Storage
from hpcserve.wire.hub import ResultStaged
from hpcserve.wire.staged import MARK

HOUR_S, DAY_S = 3600.0, 86400.0
NONE: frozenset[tuple[str, str]] = frozenset()
Run = Callable[[Callable[[StagedFiles], Awaitable[None]]], None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    return load_site("local")


@pytest.fixture
def directory(site: Site) -> Path:
    return Path(site.staging_dir)


def run(
    site: Site, do: Callable[[StagedFiles], Awaitable[None]], held: Container[tuple[str, str]] = NONE, **staging: float
) -> None:
    """Does something with the staged files of a controller, which ends then: each is a new one."""

    async def whole() -> None:
        storage = Storage()
        key = site.state_dir / "service.key"
        keys.load_or_create(key)
        await storage.open(site.state_dir / "hpcserve.db")
        changed = msgspec.structs.replace(site, staging=Staging(**staging))  # type: ignore[arg-type]
        files = StagedFiles(changed, storage, lambda owner, name: (owner, name) in held)
        await files.open(key)
        try:
            await do(files)
        finally:
            await storage.close()

    asyncio.run(whole())


def staged(directory: Path, owner: str, name: str, *, age_s: float = 0.0) -> Path:
    path = directory / owner / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(b"x" * 5000)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def prune(files: StagedFiles) -> Awaitable[None]:
    return files.prune()


def test_until_when_one_is_kept() -> None:
    keep = {"keep_s": 10.0, "keep_undelivered_s": 100.0}
    assert staged_until_s(5.0, None, **keep) == 105.0
    assert staged_until_s(5.0, 50.0, **keep) == 60.0
    assert staged_until_s(5.0, 104.0, **keep) == 114.0
    for_ever = {**keep, "keep_undelivered_s": float("inf")}
    assert staged_until_s(5.0, None, **for_ever) == float("inf")
    assert staged_until_s(5.0, 1e9, **for_ever) == 1e9 + 10.0


def test_one_that_was_delivered_is_removed_after_a_while_and_others_stay(site: Site, directory: Path) -> None:
    path, other = staged(directory, "ada", "x.h5"), staged(directory, "ada", "y.h5")

    async def deliver(files: StagedFiles) -> None:
        await files.note(ResultStaged("ada", "x.h5", 5000))
        await files.note(ResultStaged("ada", "y.h5", 5000))
        assert await files.delivered("ada", [str(path)]) == 1
        await files.prune()
        assert files.tally[:2] == (2, 2 * 8192)

    run(site, deliver, keep_s=HOUR_S)
    assert path.exists()

    async def count(files: StagedFiles) -> None:
        await files.prune()
        assert files.tally[:2] == (1, 8192), "what was removed is not counted"

    run(site, count, keep_s=1e-6)  # another controller: the store remembers
    assert not path.exists()
    assert other.exists()


def test_one_that_nobody_fetched_is_kept_for_ever(site: Site, directory: Path) -> None:
    path = staged(directory, "ada", "x.h5", age_s=10_000 * DAY_S)

    async def deliver(files: StagedFiles) -> None:
        await files.prune()
        await files.prune()
        assert path.exists()
        assert await files.delivered("ada", [str(path)]) == 1

    run(site, deliver)
    run(site, prune, keep_s=1e-6)
    assert not path.exists(), "once it was delivered it goes as any other"


def test_one_that_nobody_fetched_is_removed_after_the_time_that_the_site_sets(site: Site, directory: Path) -> None:
    old, new = staged(directory, "ada", "old.h5", age_s=DAY_S), staged(directory, "ada", "new.h5")
    run(site, prune, keep_undelivered_s=2 * DAY_S)  # nobody has told of either: a replica died before it could
    assert old.exists()
    run(site, prune, keep_undelivered_s=HOUR_S)
    assert not old.exists()
    assert new.exists()


def test_one_that_is_on_its_way_stays_however_old_it_is(site: Site, directory: Path) -> None:
    path, other = (staged(directory, "ada", name, age_s=DAY_S) for name in ("x.h5", "y.h5"))
    run(site, prune)
    run(site, prune, frozenset({("ada", "x.h5")}), keep_undelivered_s=HOUR_S)
    assert (path.exists(), other.exists()) == (True, False)
    run(site, prune, keep_undelivered_s=HOUR_S)
    assert not path.exists()


class HeldMeanwhile:
    """What is held from when it was first asked for: while others are removed."""

    def __init__(self) -> None:
        self._asked: set[object] = set()

    def __contains__(self, key: object) -> bool:
        held = key in self._asked
        self._asked.add(key)
        return held


def test_one_whose_delivery_begins_while_others_are_removed_stays(site: Site, directory: Path) -> None:
    path = staged(directory, "ada", "x.h5", age_s=DAY_S)

    async def look(files: StagedFiles) -> None:
        await files.prune()
        await files.prune()
        assert files.tally.files == 1

    run(site, prune)
    run(site, look, HeldMeanwhile(), keep_undelivered_s=HOUR_S)
    assert path.exists()
    run(site, prune, keep_undelivered_s=HOUR_S)
    assert not path.exists(), "it was not forgotten"


def test_a_disk_with_little_room_is_told_once(
    site: Site, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(controller_staged, "LITTLE", 1.1)
    staged(directory, "ada", "x.h5")

    async def look(files: StagedFiles) -> None:
        for _ in range(3):
            await files.prune()
        assert files.tally.free_bytes is not None

    run(site, look)
    told = [each.getMessage() for each in caplog.records if "left on its disk" in each.getMessage()]
    assert len(told) == 1
    assert "hpcserve results --everybody" in told[0]


def test_nobody_delivers_what_is_another_callers(site: Site, directory: Path) -> None:
    path = staged(directory, "bob", "x.h5")

    async def deliver(files: StagedFiles) -> None:
        await files.note(ResultStaged("bob", "x.h5", 5000))
        for named in (str(path), f"{directory}/ada/../bob/x.h5", "/etc/passwd", "x.h5", ""):
            assert await files.delivered("ada", [named]) == 0

    run(site, deliver)
    run(site, prune, keep_s=1e-6)
    assert path.exists()


def test_what_is_no_result_is_left_alone(site: Site, directory: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    kept = staged(outside, "", "x.h5", age_s=DAY_S)
    (directory / "ada").mkdir(parents=True)
    (directory / "linked").symlink_to(outside)
    (directory / "ada" / "link.h5").symlink_to(kept)
    (directory / "ada" / "sub").mkdir()
    run(site, prune, keep_undelivered_s=1e-6)
    run(site, prune, keep_undelivered_s=1e-6)
    assert kept.exists()
    assert (directory / MARK).read_text() == keys.load(site.state_dir / "service.key").public_z85
    assert (directory / "ada" / "sub").is_dir()


@pytest.mark.parametrize("odd", [b"ada/\xff\x1b.h5", b"\xff\x1b/x.h5"])
def test_a_name_that_is_no_text_is_told_once_and_keeps_nothing_from_being_done(
    site: Site, directory: Path, caplog: pytest.LogCaptureFixture, odd: bytes
) -> None:
    old, kept = staged(directory, "ada", "old.h5", age_s=DAY_S), staged(directory, "bob", "new.h5")
    path = staged(directory, *os.fsdecode(odd).split("/"), age_s=DAY_S)
    other = staged(directory, path.parent.name, os.fsdecode(b"\xfe.h5"))

    async def look(files: StagedFiles) -> None:
        for _ in range(3):
            await files.prune()
        assert [row.name for row in await files.rows()] == ["new.h5"]
        assert files.tally.files == 1

    run(site, look, keep_undelivered_s=HOUR_S)
    assert [each.exists() for each in (old, kept, path, other)] == [False, True, True, True]
    [told] = [each.getMessage() for each in caplog.records if "no UTF-8" in each.getMessage()]
    assert told.isprintable()
    assert told.isascii()


def test_a_defect_at_one_look_ends_no_other(site: Site, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = staged(directory, "ada", "x.h5", age_s=DAY_S)

    class Defect:
        """What knows of the files under way fails when it is asked first."""

        asked = 0

        def __contains__(self, _: object) -> bool:
            self.asked += 1
            if self.asked == 1:
                raise RuntimeError("a defect")
            return False

    async def look(files: StagedFiles) -> None:
        running = asyncio.ensure_future(files.run())
        async with asyncio.timeout(60):
            while path.exists() and not running.done():
                await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(site, look, Defect(), keep_undelivered_s=1e-6)
    assert not path.exists()
    [told] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert told.exc_info is not None


def test_what_a_killed_replica_left_half_written_is_removed(site: Site, directory: Path) -> None:
    writing = staged(directory, "ada", ".x.h5.partial")
    left = staged(directory, "ada", ".y.h5.partial", age_s=LEFT_S + 60)
    run(site, prune)
    assert writing.exists()
    assert not left.exists()


def test_a_directory_that_cannot_be_made_stops_nothing(site: Site, directory: Path) -> None:
    directory.parent.mkdir(parents=True)
    directory.write_text("in the way")

    async def look(files: StagedFiles) -> None:
        await files.prune()
        assert files.tally.files == 0

    run(site, look)
