from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from hpcserve.auth import keys
from hpcserve.config import load_site
from hpcserve.daemon.controller.leftovers import DEEPEST, prune_below
from hpcserve.daemon.controller.staged import StagedFiles
from hpcserve.daemon.controller.storage import Storage

LONG_S = 1000.0


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def test_what_has_not_changed_for_long_is_removed_with_its_directory(tmp_path: Path) -> None:
    old = written(tmp_path / "ada" / "model" / "sub" / "x.bin")
    written(tmp_path / "ada" / "model" / "servable.toml")
    result = written(tmp_path / "ada" / "x.h5")
    assert prune_below(str(tmp_path), time.time() - LONG_S) == 0
    os.utime(old, (1.0, 1.0))  # whoever sets a time has changed the file now
    assert prune_below(str(tmp_path), time.time() - LONG_S) == 0
    (tmp_path / "ada" / "empty").mkdir()
    assert prune_below(str(tmp_path), time.time() + LONG_S) == 2
    assert not (tmp_path / "ada" / "model").exists()
    assert (tmp_path / "ada" / "empty").is_dir()
    assert result.exists()


def test_no_link_is_followed_and_each_is_removed_itself(tmp_path: Path) -> None:
    outside = written(tmp_path / "outside" / "sub" / "x")
    staged = tmp_path / "staged"
    (staged / "ada" / "model").mkdir(parents=True)
    (staged / "ada" / "model" / "link").symlink_to(outside.parent)
    (staged / "ada" / "linked").symlink_to(outside.parent.parent)
    (staged / "bob").symlink_to(outside.parent.parent)
    assert prune_below(str(staged), time.time() + LONG_S) == 1
    assert outside.exists()
    assert not (staged / "ada" / "model").exists()


def test_one_directory_that_cannot_be_looked_into_keeps_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = tmp_path / "ada" / "/".join("d" * (DEEPEST + 1))
    written(deep / "x")
    other = written(tmp_path / "bob" / "sub" / "x")
    assert prune_below(str(tmp_path), time.time() + LONG_S) == 1
    assert (deep / "x").exists()
    assert not other.exists()
    assert "lies in more than" in caplog.text
    assert prune_below(str(tmp_path / "nowhere"), 0.0) == 0


@pytest.mark.parametrize("mode", ["service", "personal"])
def test_the_controller_does_so_where_one_account_serves_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path / "home"))
    lines = ("client_id", "native_client_id")
    (tmp_path / "site.toml").write_text(
        f'mode = "{mode}"\nauth = "globus"\n[access.administer]\nallow = ["user:root@uni.edu"]\n'
        '[containers]\nruntime = "apptainer"\n[staging]\nquota_bytes = 1000\nkeep_inputs_s = 1e-6\n'
        "[globus]\n" + "".join(f'{name} = "00000000-0000-0000-0000-00000000000a"\n' for name in lines)
    )
    site = load_site(str(tmp_path / "site.toml"))

    async def prune() -> None:
        storage = Storage()
        keys.load_or_create(site.state_dir / "service.key")
        await storage.open(site.state_dir / "hpcserve.db")
        files = StagedFiles(site, storage)
        await files.open(site.state_dir / "service.key")
        try:
            await files.prune()
        finally:
            await storage.close()

    left = written(Path(site.staging_dir) / "ada" / "sub" / "x")
    asyncio.run(prune())
    assert left.exists() == (mode == "personal")
