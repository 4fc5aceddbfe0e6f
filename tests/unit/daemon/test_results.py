"""Who may list and discard which staged results, and what is told of them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from hpcserve.config import Access, Rules, Site, Staging, load_site
from hpcserve.daemon.access import caller_of
from hpcserve.daemon.controller import results
from hpcserve.daemon.controller.guard import Asking, Guard
from hpcserve.daemon.controller.results import Results
from hpcserve.daemon.controller.staged import StagedFiles
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import Conflict, InvalidInput, PermissionDenied
from hpcserve.registry.rows import StagedRow
from hpcserve.registry.store import Store
from hpcserve.types import SessionId
from hpcserve.wire import hub
from hpcserve.wire.results import AskResults, Discard, ResultView

ACCESS = Access(administer=Rules(allow=("user:ops",)))
DAY_S = 86400.0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    return msgspec.structs.replace(load_site("local"), access=ACCESS)


@pytest.fixture(autouse=True)
def paths(site: Site) -> dict[str, str]:
    """By their names: three results, the first the youngest."""
    made = {}
    for days, (owner, name) in enumerate((("ada", "new"), ("ada", "old"), ("bob", "his"))):
        path = Path(site.staging_dir) / owner / f"{name}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)
        os.utime(path, (time.time() - days * DAY_S,) * 2)
        made[name] = str(path)
    return made


def asking(name: str) -> Asking:
    identity = hub.Identity(name)
    return Asking(hub.Asker(identity, SessionId(b"s" * 16)), caller_of(identity), 1)


class OnTheWay:
    """What is held, and what was discarded."""

    def __init__(self, held: Sequence[str]) -> None:
        self._held = held
        self.gone: list[tuple[str, str]] = []

    def holds(self, _owner: str, name: str) -> bool:
        return name in self._held

    async def discarded(self, keys: Iterable[tuple[str, str]]) -> None:
        self.gone += keys


def run(site: Site, do: Callable[[Results, StagedFiles], Awaitable[None]], *held: str) -> None:
    async def whole() -> None:
        storage, guard = Storage(), Guard(site)
        site.state_dir.mkdir(parents=True, exist_ok=True)
        await storage.open(site.state_dir / "hpcserve.db")

        on_the_way = OnTheWay(held)
        files = StagedFiles(site, storage, on_the_way.holds)
        try:
            await do(Results(site, guard, files, on_the_way), files)
        finally:
            guard.close()
            await storage.close()

    asyncio.run(whole())


def names(found: tuple[ResultView, ...]) -> list[str]:
    return [Path(each.path).stem for each in found]


def test_each_sees_their_own_and_administrators_all(site: Site, paths: dict[str, str]) -> None:
    async def look(calls: Results, files: StagedFiles) -> None:
        await files.prune()
        assert await files.delivered("ada", [paths["old"]]) == 1
        mine = await calls.listed(AskResults(), asking("ada"))
        assert names(mine.results) == ["old", "new"]
        old, new = mine.results
        assert old.delivered_s is not None
        assert old.until_s == pytest.approx(old.delivered_s + DAY_S)
        assert (new.owner, new.size_bytes, new.delivered_s, new.held) == ("ada", 8192, None, False)
        assert new.until_s is None, "until it is delivered"
        assert msgspec.json.decode(msgspec.json.encode(mine), type=type(mine)) == mine
        assert names((await calls.listed(AskResults(undelivered=True), asking("ada"))).results) == ["new"]
        assert names((await calls.listed(AskResults(older_s=DAY_S / 2), asking("ada"))).results) == ["old"]
        everybody = AskResults(everybody=True)
        assert names((await calls.listed(everybody, asking("ops"))).results) == ["his", "old", "new"]
        with pytest.raises(PermissionDenied, match="only administrators"):
            await calls.listed(everybody, asking("ada"))

    run(site, look)


def test_nobodys_directory_is_looked_into_for_another(
    site: Site, paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    read: list[str | None] = []
    scandir, staged = os.scandir, Store.staged

    def watched(directory: int) -> Any:
        looked.append(Path(f"/proc/self/fd/{directory}").readlink().name)
        return scandir(directory)

    def watched_rows(store: Store, owner: str | None = None) -> tuple[StagedRow, ...]:
        read.append(owner)
        return staged(store, owner)

    async def look(calls: Results, _: StagedFiles) -> None:
        assert len((await calls.listed(AskResults(), asking("ada"))).results) == 2
        assert (await calls.listed(AskResults(), asking("eve"))).results == ()
        assert (await calls.discard(Discard(paths=(paths["old"],)), asking("ada"))).removed == 1
        assert (looked, read) == (["ada", "ada"], ["ada", "eve", "ada"])
        both = Discard(paths=(paths["new"], paths["his"]))
        assert (await calls.discard(both, asking("ops"))).removed == 2

    monkeypatch.setattr(os, "scandir", watched)
    monkeypatch.setattr(Store, "staged", watched_rows)
    run(site, look)


def test_who_looked_at_everybodys_or_tried_to_is_written_down(site: Site) -> None:
    async def look(calls: Results, _: StagedFiles) -> None:
        for _look in range(2):
            await calls.listed(AskResults(everybody=True), asking("ops"))
            await calls.listed(AskResults(), asking("ada"))
        with pytest.raises(PermissionDenied):
            await calls.listed(AskResults(everybody=True), asking("ada"))

    run(site, look)
    lines = map(json.loads, (site.state_dir / "audit" / "controller.jsonl").read_text().splitlines())
    noted = [(line["name"], line["action"], line["object"], line["allowed"], line["by"]) for line in lines]
    assert noted == [
        ("ops", "see", "everybody's results", True, "access.administer.allow user:ops"),
        ("ada", "see", "everybody's results", False, "access.administer.allow"),
    ], "a look that is repeated is one line"


def test_until_when_one_is_kept_is_told_where_the_site_says_so(site: Site) -> None:
    async def look(calls: Results, _: StagedFiles) -> None:
        [his] = (await calls.listed(AskResults(), asking("bob"))).results
        assert his.until_s == pytest.approx(his.written_s + 7 * DAY_S)
        old, new = (await calls.listed(AskResults(), asking("ada"))).results
        assert (old.held, old.until_s) == (True, None)
        assert new.until_s is not None

    run(msgspec.structs.replace(site, staging=Staging(keep_undelivered_s=7 * DAY_S)), look, "old.h5")


def test_there_may_be_more_than_are_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_SHOWN", 2)

    async def look(calls: Results, _: StagedFiles) -> None:
        found = await calls.listed(AskResults(everybody=True), asking("ops"))
        assert (names(found.results), found.more) == (["his", "old"], 1)

    run(site, look)


def test_what_is_given_up_is_removed_and_written_down(site: Site, paths: dict[str, str]) -> None:
    async def discard(calls: Results, files: StagedFiles) -> None:
        await files.prune()
        assert files.tally[:4] == (3, 3 * 8192, 3, 3 * 8192)
        assert files.tally.oldest_s == pytest.approx(time.time() - 2 * DAY_S, abs=60)
        both = Discard(paths=(paths["old"], f"{paths['old']}.gone"))
        assert (await calls.discard(both, asking("ada"))).removed == 1
        assert cast("OnTheWay", calls._transfers).gone == [("ada", "old.h5"), ("ada", "old.h5.gone")]
        assert (await calls.discard(Discard(paths=(paths["his"],)), asking("ops"))).removed == 1
        await files.prune()
        assert files.tally[:4] == (1, 8192, 1, 8192)

    run(site, discard)
    assert [name for name, path in paths.items() if Path(path).exists()] == ["new"]
    lines = (site.state_dir / "audit" / "controller.jsonl").read_text().splitlines()
    assert [(line["name"], line["object"], line["by"]) for line in map(json.loads, lines)][::2] == [
        ("ada", paths["old"], "owner"),
        ("ops", paths["his"], "access.administer.allow user:ops"),
    ]


def test_nobody_discards_what_is_anothers_or_no_result(site: Site, paths: dict[str, str]) -> None:
    directory = site.staging_dir
    (Path(directory) / "ada" / "sub").mkdir()
    outside = Path(directory).parent / "x.h5"
    outside.touch()
    wrong = (
        paths["his"],
        f"{directory}/ada/../bob/his.h5",
        f"{directory}/../x.h5",
        f"{directory}/ada/sub/x",
        f"{directory}/ada/",
        f"{directory}/ada/.x.h5.partial",
        f"{directory}/.service",
        f"{directory}/a\0da/x.h5",
        "ada/new.h5",
        "/etc/passwd",
        "",
    )

    async def discard(calls: Results, _: StagedFiles) -> None:
        for path in wrong:
            for name in ("ada", "ops") if path != paths["his"] else ("ada",):
                with pytest.raises(PermissionDenied, match="no staged result of yours"):
                    await calls.discard(Discard(paths=(paths["new"], path)), asking(name))
        for number in (0, results.MOST_PATHS + 1):
            with pytest.raises(InvalidInput, match=f"has {number} entries"):
                await calls.discard(Discard(paths=(paths["new"],) * number), asking("ada"))

    run(site, discard)
    assert all(Path(path).exists() for path in paths.values())
    assert outside.exists()


def test_what_is_on_its_way_stays_and_all_that_was_named_with_it(site: Site, paths: dict[str, str]) -> None:
    async def discard(calls: Results, _: StagedFiles) -> None:
        with pytest.raises(Conflict, match="hpcserve transfers --cancel ID"):
            await calls.discard(Discard(paths=(paths["new"], paths["old"])), asking("ada"))

    run(site, discard, "old.h5")
    assert all(Path(path).exists() for path in paths.values())
