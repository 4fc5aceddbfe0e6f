"""All of it together, with the loopback stand-in over TLS: a login, a servable for a group, two gigabytes on a laptop.

Meanwhile tokens last twelve seconds, and Auth refuses each third request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcserve.testing.globus.collections import Collection, Kind
from hpcserve.testing.globus.records import TRANSFER_ALL
from hpcserve.testing.globus.transfer_tasks import Status
from tests.acceptance.house import House, house_in
from tests.acceptance.newcomer import User
from tests.integration.globus.setting import Setting

ROWS, COLUMNS = 500, 1_000_000
SIZE_BYTES = 4 * ROWS * COLUMNS
LIFETIME_S = 12
BYTES_PER_S = 150e6
"""The laptop's line: the transfer takes longer than a token lasts."""
PATIENCE_S = 200.0
"""On a machine that does much else, two gigabytes are hashed four times, and read and written as often."""
AUTH = "POST /v2/oauth2/token"

MANIFEST = """
name = "field"
loader = "python"
entry = "field:Field"
"""
SERVABLE = f"""
import numpy as np

from hpcserve import Tensor, method


class Field:
    @method(inputs={{"seed": Tensor("int64", [1])}}, outputs={{"y": Tensor("int32", [{ROWS}, {COLUMNS}])}})
    def make(self, seed):
        row = np.random.default_rng(seed).integers(2**31, size={COLUMNS}, dtype=np.int32)
        y = np.empty(({ROWS}, {COLUMNS}), np.int32)
        for number in range({ROWS}):
            np.bitwise_xor(row, number, out=y[number])
        return y
"""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A service whose results lie on a collection."""
    staged = tmp_path / "staged"

    def staging(globus: Setting) -> str:
        facility = globus.globus.add_collection("facility", globus.person, Kind.MAPPED, root=staged)
        staged.chmod(0o700)
        globus.globus.transfer.queue.retry_s = 0.05
        return f"""
[staging]
directory = "{staged}"
transfer_wait_s = 0.2

[[staging.collections]]
id = "{facility.id}"
prefix = "{staged}"
kind = "mapped"
"""

    with house_in(tmp_path, staging, administer="user:ops@lab.example", cache_s=60) as made:
        yield made
    for path in staged.rglob("*.h5"):
        path.unlink()


@pytest.fixture
def ada(house: House) -> User:
    return house.user()


@pytest.fixture
def laptop(house: House, ada: User, tmp_path: Path) -> Iterator[Collection]:
    """Ada's, by Globus Connect Personal: her home directory."""
    made = house.globus.globus.add_collection("laptop", house.person(ada), Kind.PERSONAL, root=tmp_path / "laptop")
    ada.environment["HOME"] = str(made.root)
    known = made.root / ".globusonline" / "lta"
    known.mkdir(parents=True)
    (known / "client-id.txt").write_text(made.id)
    made.trouble.bytes_per_s = BYTES_PER_S
    yield made
    for path in made.root.rglob("*.h5"):
        path.unlink()


def publish(house: House, place: Path, group: str) -> None:
    """A servable that nobody but a group sees."""
    place.mkdir()
    (place / "servable.toml").write_text(MANIFEST)
    (place / "field.py").write_text(SERVABLE)
    house.ops.ok("publish", place, "--visible-to", f"group:{group}")
    house.ops.ok("deploy", "field", "--endpoint", "field")


def check(path: Path, seed: int) -> None:
    """That the file holds what was computed, all of it; the client has compared its sha256."""
    row = np.random.default_rng([seed]).integers(2**31, size=COLUMNS, dtype=np.int32)
    with h5py.File(path) as file:
        data = file["y"]
        assert (data.shape, data.dtype) == ((ROWS, COLUMNS), np.int32)
        for number in range(ROWS):
            assert np.array_equal(data[number], row ^ number)


@pytest.mark.timeout(600)
def test_two_gigabytes_reach_a_laptop_while_tokens_end_and_auth_is_busy(
    house: House, ada: User, laptop: Collection, tmp_path: Path
) -> None:
    globus, world = house.globus.globus, house.globus.world
    group = world.add_group("allocation", [house.person(ada)])
    publish(house, tmp_path / "field", group.id)
    np.save(tmp_path / "seed.npy", np.array([7]))
    call = ("run", "field.make", "--input", f"seed={tmp_path / 'seed.npy'}", "--timeout", "300")
    world.lifetime_s = LIFETIME_S
    globus.faults.add(AUTH, 503, times=None, every=3)

    with house.types(ada, "login") as typist:
        typist.logs_in().ends()
    stranger = house.logged_in()
    assert stranger.fails(5, *call) == "error: no endpoint 'field'; there are none\n"
    assert (stranger.status()["servables"], stranger.status()["deployments"]) == ([], [])

    with house.types(ada, *call, "--to", f"globus://{laptop.id}/~/results/") as typist:
        typist.patience_s = PATIENCE_S
        told = json.loads(typist.logs_in().ends())
    assert typist.seen.count("Paste the code") == 1, typist.seen
    (path,) = (laptop.root / "results").iterdir()
    assert told == {"sent": f"globus://{laptop.id}/~/results/{path.name}"}
    assert SIZE_BYTES < path.stat().st_size < 1.01 * SIZE_BYTES
    (task,) = globus.transfer.queue.of(house.person(ada).id)
    assert (task.status, task.files_moved, task.bytes_checksummed) == (Status.SUCCEEDED, 1, path.stat().st_size)
    check(path, 7)

    ended = [each for each in world.tokens.values() if each.sub == house.person(ada).id and each.expires < time.time()]
    by_service = [each for each in ended if TRANSFER_ALL in each.scopes]
    assert by_service, "the service has had another while it went on"
    assert len(ended) > len(by_service), "and so has Ada's terminal"
    assert sum(many for call, many in globus.faults.asked.items() if call.startswith(AUTH)) > 6, (
        "two at least were refused"
    )
