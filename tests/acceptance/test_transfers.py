"""Large results onto a laptop by Globus: the command line, a real daemon, and the loopback stand-in over TLS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.services import Service
from hpcserve.errors import LoginRequired
from tests.acceptance.lab import Lab, Person, X, as_ada, lab_in
from tests.acceptance.newcomer import until
from tests.acceptance.typist import Typist
from tests.integration.pages import Page

GUIDES_LAPTOP = "6c54cade-bde5-45c1-bdea-f4bd71dba2cc"
"""Its id in docs/how-to/get-large-results.md."""
PATIENCE_S = 60.0


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with lab_in(tmp_path) as made:
        yield made


async def both_clients(lab: Lab) -> None:
    """The same from Python."""
    to = f"globus://{lab.laptop.id}/results/"
    with as_ada(lab):
        with Client(Service(lab.ada.record)) as client:
            future = client.submit("echo.echo", X, to=to)
            sent = (await asyncio.to_thread(future.result, 90.0)).sent
            assert sent is not None
            assert future.transfer == sent.transfer
        async with AsyncClient(Service(lab.ada.record)) as other:
            async with asyncio.timeout(90.0):
                going = other.submit("echo.echo", X, to=to)
                assert going.transfer is None
                assert (await going).sent is not None
                assert going.transfer is not None
                assert going.transfer.state == "succeeded"


def test_a_result_reaches_the_laptop_after_the_consents_that_it_needs(lab: Lab) -> None:
    with Typist(lab.ada, lab.globus.ca, *lab.call) as typist:
        told = json.loads(typist.logs_in().ends())
    [path] = lab.arrived()
    assert told == {"sent": f"globus://{lab.laptop.id}/results/{path.name}"}
    assert f"transfer {lab.transfers()[0]['id']} to {told['sent']} is succeeded" in typist.seen
    with h5py.File(path) as file:
        assert np.array_equal(file["x"][()], X)
    # Now that she has consented, nobody is asked any more, and Globus may be busy.
    for pattern in ("GET /v0.10/submission_id", "POST /v0.10/transfer", "GET /v0.10/task/", "POST /v2/oauth2/token"):
        lab.globus.globus.faults.add(pattern, 503, times=2)
    lab.ada.ok(*lab.call)
    assert [each["state"] for each in lab.transfers()] == ["succeeded"] * 2
    assert lab.ada.ok("transfers").count("succeeded") == 2
    asyncio.run(both_clients(lab))
    assert len(lab.arrived()) == 4
    # What cannot arrive is said before it is computed, or as soon as Globus has tried.
    computed = len(list(Path(lab.facility.root).rglob("*.h5")))
    assert "let it end with a slash" in lab.ada.fails(1, *lab.run, "--to", lab.call[-1].rstrip("/"))
    assert len(list(Path(lab.facility.root).rglob("*.h5"))) == computed
    lab.laptop.trouble.read_only = True
    assert "see to it that you may write there" in lab.ada.fails(1, *lab.call)
    lab.laptop.trouble.read_only = False
    lab.ada.ok("transfers", "--again", str(lab.transfers()[-1]["id"]), "--watch")
    assert len(lab.arrived()) == 5


def test_a_delivery_outlives_its_client_and_the_controller(lab: Lab) -> None:
    lab.laptop.trouble.offline = True
    with Typist(lab.ada, lab.globus.ca, *lab.call, "--keep-login") as typist:
        typist.logs_in()
        until(lambda: any(each["task"] for each in lab.transfers()), 90.0)
        typist.process.send_signal(signal.SIGKILL)
        typist.process.wait()
    until(lambda: "GC_NOT_CONNECTED" in str(lab.transfers()[0]["why"]), 90.0)
    assert lab.kept_logins() == 1
    before = lab.ada.status()["processes"]["controller"]
    os.kill(before, signal.SIGKILL)
    until(lambda: lab.ada.run("status", "--json").returncode == 0, 90.0)
    until(lambda: lab.ada.status()["processes"]["controller"] != before, 90.0)
    lab.laptop.trouble.offline = False
    until(lambda: lab.transfers()[0]["state"] == "succeeded", 90.0)
    assert len(lab.arrived()) == lab.tasks() == 1
    until(lambda: lab.kept_logins() == 0, PATIENCE_S)
    assert b"with --keep-login" in lab.ada.run("logout").stderr
    lab.login()
    assert b"--keep-login" not in lab.ada.run("logout").stderr, "since then none was kept"


SCRIPT = """
import faulthandler, sys, time
import numpy as np
from hpcserve import Client

faulthandler.dump_traceback_later(45)
client = Client()
future = client.submit("echo.echo", np.load(sys.argv[1]), to=sys.argv[2])
while future.transfer is None or future.transfer.state == "waiting":
    time.sleep(0.05)
print("under way", flush=True)
if sys.argv[3] == "waits":
    future.result()
"""
ASYNC_SCRIPT = """
import asyncio, sys
import numpy as np
from hpcserve import AsyncClient

async def main():
    async with AsyncClient() as client:
        future = client.submit("echo.echo", np.load(sys.argv[1]), to=sys.argv[2])
        while future.transfer is None or future.transfer.state == "waiting":
            await asyncio.sleep(0.05)
        print("under way", flush=True)
        await future

asyncio.run(main())
"""


def ends(lab: Lab, script: str, how: str, code: int) -> str:
    """What a script says that is interrupted, or ends, while the laptop is away."""
    words = (sys.executable, "-c", script, str(lab.x), f"globus://{lab.laptop.id}/results/", how)
    with subprocess.Popen(
        words, env=lab.ada.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "under way\n"
            if code:
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"it does not leave: {process.communicate()}") from None
        finally:
            process.kill()
    assert process.returncode == code, said
    return said


def test_who_is_interrupted_leaves_at_once_and_comes_back_for_the_result(lab: Lab) -> None:
    lab.laptop.trouble.offline = True
    with Typist(lab.ada, lab.globus.ca, *lab.call) as typist:
        typist.logs_in().says("is active").interrupts().ends(130)
    assert "goes on; see: hpcserve transfers" in typist.seen
    interrupted = -signal.SIGINT
    for script, how, code in ((SCRIPT, "waits", interrupted), (SCRIPT, "ends", 0), (ASYNC_SCRIPT, "", interrupted)):
        said = ends(lab, script, how, code)
        assert said.endswith("KeyboardInterrupt\n") if code else not said
        assert "never awaited" not in said
    id = str(lab.transfers()[0]["id"])
    lab.ada.ok("transfers", "--cancel", id)
    until(lambda: lab.transfers()[0]["state"] == "cancelled", PATIENCE_S)
    assert lab.ada.ok("transfers", "--again", id).startswith(f"transfer {id}: ")
    lab.laptop.trouble.offline = False
    lab.ada.ok("transfers", "--watch")
    assert [each["state"] for each in lab.transfers()] == ["succeeded"] * 4
    assert len(lab.arrived()) == 4


def test_without_a_terminal_the_login_that_is_needed_is_told_and_made_later(lab: Lab) -> None:
    refused = lab.ada.fails(4, *lab.call)
    assert "hpcserve transfers --login" in refused
    assert "hpcserve login" not in refused
    assert "log in: hpcserve transfers --login" in " ".join(lab.ada.ok("transfers").split())
    first = lab.transfers()[0]
    lab.ada.ok("transfers", "--cancel", str(first["id"]))
    assert Path(str(first["path"])).name in lab.ada.ok("transfers"), "where the result is"
    lab.ada.fails(4, *lab.call)
    with Typist(lab.ada, lab.globus.ca, "transfers", "--login", "--watch") as typist:
        typist.logs_in().ends()
    assert len(lab.arrived()) == 1
    gone = next(each["id"] for each in lab.transfers() if each["state"] == "succeeded")
    assert "has succeeded already" in lab.ada.fails(1, "transfers", "--cancel", str(gone))


CHOIR = """
import numpy as np
from hpcserve import Tensor, method


class Choir:
    def setup(self, context):
        self.rank, self.size = context.rank, context.size

    @method(inputs={"x": Tensor("float32", [-1])}, outputs={"y": Tensor("float32", [-1, -1])})
    def sing(self, x, comm):
        return np.stack(comm.allgather((self.rank + 1) * x))
"""


def test_the_result_of_several_ranks_reaches_the_laptop(lab: Lab, tmp_path: Path) -> None:
    directory = tmp_path / "choir"
    directory.mkdir()
    (directory / "choir.py").write_text(CHOIR)
    manifest = 'name = "choir"\nloader = "python"\nentry = "choir:Choir"\n[ranks]\nsize = 2\ncompute = "collective"\n'
    (directory / "servable.toml").write_text(manifest)
    lab.ada.ok("undeploy", "echo")
    lab.ada.ok("publish", directory)
    lab.ada.ok("deploy", "choir")
    expected = np.stack([X, 2 * X])
    call = ("run", "choir", *lab.call[2:])
    with Typist(lab.ada, lab.globus.ca, *call) as typist:
        typist.logs_in().ends()
    [path] = lab.arrived()
    with h5py.File(path) as file:
        assert np.array_equal(file["y"][()], expected)
    output = tmp_path / "y.h5"
    lab.ada.ok("run", "choir", *lab.run[2:], "--output", output)
    with h5py.File(output) as file:
        assert np.array_equal(file["y"][()], expected)


async def from_afar(lab: Lab) -> None:
    """Each size by its way, from a machine that does not see the files."""
    afar, to = Service(lab.from_afar()), f"globus://{lab.laptop.id}/large/"
    async with AsyncClient(afar, large_to=to) as client, asyncio.timeout(90.0):
        small = await client.infer("echo.echo", X[:10])
        assert (small.staged, small.sent) == (None, None)
        middling = await client.infer("echo.echo", X)
        assert (middling.staged, middling.sent) == (None, None)
        assert np.array_equal(middling["x"], X)
        future = client.submit("echo.echo", np.tile(X, 2))
        large = await future
        assert large.sent is not None
        assert large.sent.uri.startswith(to)
        assert future.transfer == large.sent.transfer
    [path] = (lab.laptop.root / "large").glob("*.h5")
    with h5py.File(path) as file:
        assert np.array_equal(file["x"][()], np.tile(X, 2))
    with Client(afar) as plain:  # nowhere to bring it to, and larger than comes by HTTPS
        outputs = await asyncio.to_thread(plain.infer, "echo.echo", np.tile(X, 2))
        assert (outputs.staged, len(outputs["x"])) == (None, 2 * len(X))


def test_a_large_result_comes_by_the_nearest_way_that_there_is(lab: Lab) -> None:
    lab.ada.ok("service", "add", "afar", lab.from_afar())
    output = lab.ada.home / "y.npy"
    said = lab.ada.fails(4, "--service", "afar", *lab.run, "--output", output)
    assert "was to come by HTTPS" in said
    with Typist(lab.ada, lab.globus.ca, "--service", "afar", *lab.run, "--output", output) as typist:
        typist.logs_in().ends()  # once, to fetch files for her and to let her in on the collection
    assert np.array_equal(np.load(output), X)
    with as_ada(lab):
        asyncio.run(from_afar(lab))
    assert lab.tasks() == 1


def test_who_has_no_terminal_consents_at_another_and_fetches(lab: Lab) -> None:
    lab.ada.ok("service", "add", "afar", lab.from_afar())
    output = lab.ada.home / "y.h5"
    call = ("--service", "afar", *lab.run, "--reply", "staged", "--output", output)
    assert "log in: hpcserve transfers --login" in lab.ada.fails(4, *call)
    with Typist(lab.ada, lab.globus.ca, "--service", "afar", "transfers", "--login") as typist:
        typist.logs_in().ends()  # both consents at once
    lab.ada.ok(*call)
    with h5py.File(output) as file:
        assert np.array_equal(file["x"][()], X)
    shown = lab.ada.run(*call[:-2])
    told = json.loads(shown.stdout)
    assert told["outputs"] == {"x": "float32[100000]"}
    assert Path(told["staged"]).is_relative_to(lab.facility.root), "where it is on the site"
    assert b"--output FILE.h5" in shown.stderr
    with Typist(lab.ada, lab.globus.ca, "--service", "afar", "transfers", "--login") as typist:
        typist.ends()
    assert "yours does for those to come" in typist.seen


def test_an_async_client_has_somebody_asked_to_log_in(lab: Lab) -> None:
    async def call() -> None:
        page = Person(lab.globus.ca)
        async with AsyncClient(Service(lab.ada.record), asks=page) as client:
            assert len(page.asked) == 1
            assert client.login is not None
            assert client.session_bytes > 0
            assert (await client.infer("echo.echo", X[:10]))["x"].shape == (10,)
        async with AsyncClient(Service(lab.ada.record), asks=page) as client:
            assert len(page.asked) == 1
            future = client.submit("echo.echo", X, to=f"globus://{lab.laptop.id}/results/")
            with pytest.raises(LoginRequired):
                await future
            assert future.transfer is not None
            assert future.transfer.state != "succeeded"
            await asyncio.to_thread(lab.login_for_transfers)
            assert (await future.go_on()).sent is not None

    lab.ada.ok("logout")
    with as_ada(lab):
        asyncio.run(call())


def test_the_guide_does_what_it_says(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/how-to/get-large-results.md."""
    with Typist(lab.ada, lab.globus.ca, *lab.call) as typist:
        typist.logs_in().ends()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    np.save("x.npy", X[:2000])
    with as_ada(lab):
        Page("docs/how-to/get-large-results.md", read_as={GUIDES_LAPTOP: lab.laptop.id}).run()
    results = [path for path in lab.laptop.root.rglob("*.h5") if path.name.startswith("fold-")]
    assert len(results) == 2
    for path in results:
        with h5py.File(path) as file:
            assert np.array_equal(file["y"][()], np.outer(X[:2000], X[:2000]))
