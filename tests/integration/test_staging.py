"""Large results and inputs as files of the site, through a real daemon and a real replica."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcserve import AsyncClient, Client, Reference
from hpcserve.cli.main import main
from hpcserve.errors import InvalidInput, PermissionDenied, StagedFileGone, TransferFailed
from hpcserve.wire.admin import Delivered, Noted
from hpcserve.wire.staged import MARK
from tests.integration.daemon_tree import SERVABLES, Daemon, status, until

LIMIT = 1 << 20
OVERRIDES = {"staging": {"inline_limit_bytes": LIMIT, "keep_s": 0.5, "keep_undelivered_s": 600.0}}
MANY = np.int64(200_000)  # float64: more than the limit
FEW = np.int64(100)


@pytest.fixture(scope="module", name="client")
def a_client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, SERVABLES / "fields")
        yield made


def test_a_large_result_comes_in_a_file_and_a_small_one_does_not(client: Client) -> None:
    many, few = client.infer("fields.make", MANY), client.infer("fields.make", FEW)
    assert np.array_equal(many["y"], np.arange(MANY))
    assert many.staged is not None
    assert np.array_equal(few["y"], np.arange(FEW))
    assert few.staged is None
    many["y"][0] = 7.0  # the caller's own


def test_a_caller_may_have_it_in_the_message(client: Client) -> None:
    assert client.infer("fields.make", MANY, reply="inline").staged is None
    with pytest.raises(InvalidInput, match="reply is 'socket': give one of 'auto', 'inline', 'staged'"):
        client.infer("fields.make", MANY, reply="socket")


def test_a_result_may_be_left_in_its_file(client: Client) -> None:
    outputs = client.infer("fields.make", MANY, reply="staged")
    assert outputs["y"].shape == (MANY,)
    assert outputs["y"][5:8].tolist() == [5.0, 6.0, 7.0]
    assert outputs.staged is not None
    with outputs.staged.open() as file:
        assert file.attrs["servable"] == "fields"
        assert file.attrs["version"] == outputs.version
        assert file.attrs["replica"] == outputs.replica
    nothing = client.infer("fields.make", np.int64(0), reply="staged")
    assert np.asarray(nothing["y"]).shape == (0,)


@pytest.mark.timeout(600)
def test_twenty_gigabytes_go_from_a_servable_into_a_file_and_are_never_in_memory(client: Client) -> None:
    before = client.infer("fields.memory", {})["peak_kib"]
    outputs = client.infer("fields.vast", np.int64(5 << 10), reply="staged", timeout_s=240.0)
    assert client.infer("fields.memory", {})["peak_kib"] - before < 200 << 10
    assert outputs["y"].shape == (5 << 10, 1 << 20)
    assert not outputs["y"][-1, -5:].any()
    assert outputs.staged is not None
    with outputs.staged.open() as file:
        assert file["y"].nbytes == 20 << 30
    assert outputs.staged.size_bytes < 1 << 20, "what is zero is not written"


def test_futures_maps_and_requests_that_are_joined_have_theirs(client: Client) -> None:
    futures = [client.submit("fields.make", MANY + n) for n in range(4)]
    assert [len(each.result(60)["y"]) for each in futures] == [MANY + n for n in range(4)]
    items = [np.full(1 << 18, n, np.float32) for n in range(6)]  # 1 MiB: joined, and each over no limit
    for n, outputs in enumerate(client.map("fields.echo", items, in_flight=6, reply="staged")):
        assert outputs["x"][0] == n
        assert outputs["x"].shape == (1 << 18,)


@pytest.mark.usefixtures("client")
def test_the_client_for_asyncio_has_them_too(daemon: Daemon) -> None:
    async def call() -> None:
        async with AsyncClient() as made:
            one, two = await asyncio.gather(made.infer("fields.make", MANY), made.submit("fields.make", MANY))
            assert one.staged is not None
            assert two["y"].sum() == one["y"].sum()

    with daemon.environment():
        asyncio.run(call())


def test_a_file_goes_after_its_delivery_and_no_sooner(client: Client) -> None:
    kept = client.infer("fields.make", MANY, reply="staged").staged
    gone = client.infer("fields.make", MANY).staged
    assert kept is not None
    assert gone is not None
    until(lambda: not gone.path.exists(), "the delivered file is removed")
    assert kept.path.exists()
    with pytest.raises(StagedFileGone, match="the site keeps such files for a time only"):
        gone.load()
    kept.verify()
    until(lambda: not kept.path.exists(), "the verified file is removed")


def test_what_nobody_fetched_is_seen_and_given_up(
    client: Client, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = client.infer("fields.make", MANY, reply="staged").staged
    assert staged is not None
    with daemon.environment():
        assert main(["results", "--undelivered", "--json"]) == 0
        [listed] = [each for each in json.loads(capsys.readouterr().out)["results"] if each["path"] == str(staged.path)]
        assert (listed["delivered_s"], listed["held"]) == (None, False)
        assert listed["size_bytes"] == staged.path.stat().st_blocks * 512
        until(lambda: status(client).undelivered_results, "it is counted", 90.0)
        assert main(["status"]) == 0
        assert re.search(r"staged results: \d+, .* free; undelivered: \d+, .*the oldest for", capsys.readouterr().out)
        assert main(["results", "--everybody", "--older", "7800000"]) == 0
        assert capsys.readouterr().out == "no results in files\n"
        assert main(["results", "--discard"]) == 4, "nobody is asked, so nothing is removed"
        assert staged.path.exists()
        assert main(["results", "--discard", str(staged.path)]) == 0
        assert "removed: 1" in capsys.readouterr().out
    assert not staged.path.exists()
    with pytest.raises(StagedFileGone):
        staged.load()


def test_a_damaged_file_is_found_out(client: Client) -> None:
    outputs = client.infer("fields.make", MANY, reply="staged")
    assert outputs.staged is not None
    with h5py.File(outputs.staged.path, "a") as file:
        file["y"][17] = -1.0
    with pytest.raises(TransferFailed, match=r"its sha256 is .*damaged, or another file"):
        outputs.staged.load()
    outputs.staged.path.write_bytes(b"rubbish")
    with pytest.raises(TransferFailed, match="cannot be read"):
        outputs.staged.verify()
    outputs.staged.path.unlink()


@pytest.mark.usefixtures("client")
def test_a_client_that_does_not_see_the_files_has_results_in_their_messages(daemon: Daemon) -> None:
    mark = daemon.shared / "staged" / MARK
    key = mark.read_text()
    mark.write_text("another service's")
    try:
        with daemon.client() as other:
            assert other.infer("fields.make", MANY).staged is None
            with pytest.raises(TransferFailed, match=r"is in .* on the site, and that is not seen from here"):
                other.infer("fields.make", MANY, reply="staged")
    finally:
        mark.write_text(key)


def test_an_input_may_be_a_file(client: Client, tmp_path: Path) -> None:
    outputs = client.infer("fields.make", MANY, reply="staged")
    assert outputs.staged is not None
    found = client.infer("fields.total", {"x": Reference(f"file:{outputs.staged.path}#/y")})
    assert found["total"] == np.arange(MANY, dtype=np.float64).sum()
    np.save(tmp_path / "x.npy", np.arange(3.0))
    with pytest.raises(PermissionDenied, match="outside of what you may name here"):
        client.infer("fields.total", Reference(f"file:{tmp_path / 'x.npy'}"))
    (outputs.staged.path.parent / "x.npy").symlink_to(tmp_path / "x.npy")
    with pytest.raises(PermissionDenied, match="a symbolic link leads out"):
        client.infer("fields.total", Reference(f"file:{outputs.staged.path.parent / 'x.npy'}"))
    with h5py.File(outputs.staged.path.parent / "wrong.h5", "w") as file:
        unreadable = file.create_dataset("x", (3,), np.float32, chunks=(3,), compression="gzip")
        unreadable.id.write_direct_chunk((0,), b"whoever reads this fails otherwise")
    with pytest.raises(InvalidInput, match="has dtype float32, expected float64"):
        client.infer("fields.total", Reference(f"file:{outputs.staged.path.parent / 'wrong.h5'}"))
    (outputs.staged.path.parent / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00\x07\x00{'a': (")
    with pytest.raises(InvalidInput, match="cannot be read"):
        client.infer("fields.total", Reference(f"file:{outputs.staged.path.parent / 'bad.npy'}"))
    again = client.infer("fields.total", {"x": Reference(f"file:{outputs.staged.path}#/y")})
    assert again.replica == found.replica


def test_a_directory_that_is_gone_fails_what_was_to_be_staged_alone(client: Client, daemon: Daemon) -> None:
    staged, away = daemon.shared / "staged", daemon.shared / "away"
    staged.rename(away)
    try:
        assert client.infer("fields.make", MANY).staged is None  # it fits into a message
        with pytest.raises(Exception, match="see that the directory is there"):
            client.infer("fields.make", FEW, reply="staged")
    finally:
        away.rename(staged)
    assert client.infer("fields.make", FEW, reply="staged").staged is not None


def test_a_new_controller_goes_on_where_the_last_one_was(client: Client) -> None:
    kept = client.infer("fields.make", MANY, reply="staged").staged
    assert kept is not None
    os.kill(status(client).processes["controller"], signal.SIGKILL)
    until(lambda: _noted(client, str(kept.path)), "the new controller knows the file")
    until(lambda: not kept.path.exists(), "the delivered file is removed by the new controller")


def _noted(client: Client, path: str) -> bool:
    return client.call("delivered", Delivered(paths=(path,)), Noted, timeout_s=60.0).known == 1
