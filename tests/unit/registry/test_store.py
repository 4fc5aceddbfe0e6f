from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcserve.errors import ConfigError, Conflict, HpcserveError, StorageFull, UnknownServable
from hpcserve.registry import engine
from hpcserve.registry.rows import DeploymentRow, NameRow, PilotRow, RanRow, ServableRow, ServedRow, StagedRow
from hpcserve.registry.store import Store
from hpcserve.types import DeploymentName, Digest, EndpointName, PilotId

Fill = Callable[[Path], Path]

A = Digest("aaaa" + "1" * 60)
B = Digest("aabb" + "2" * 60)
C = Digest("cccc" + "3" * 60)


def servable(name: str, version: Digest, created_s: float = 1.0) -> ServableRow:
    return ServableRow(name=name, version=version, manifest_json="{}", path=f"/s/{version}", created_s=created_s)


def deployment(name: str, replicas: int = 1, created_s: float = 1.0) -> DeploymentRow:
    return DeploymentRow(
        name=DeploymentName(name),
        servable="digits",
        version=A,
        replicas=replicas,
        endpoint=EndpointName(name),
        created_s=created_s,
    )


def pilot(name: str, submitted_s: float = 1.0) -> PilotRow:
    return PilotRow(id=PilotId(name), incarnation="i", state="intent", secret_sha256="ab", submitted_s=submitted_s)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    opened = Store(place)
    yield opened
    opened.close()


def test_the_first_who_publishes_owns_the_name(store: Store) -> None:
    mine = NameRow.made("digits", "user:ada", ())
    store.add_servable(servable("digits", A), mine)
    with pytest.raises(Conflict, match="somebody else has published digits"):
        store.add_servable(servable("digits", B), NameRow.made("digits", "user:bob", ("*",)))
    assert store.names() == (mine,)
    assert store.resolve("digits") == ("digits", A)
    store.put_name(NameRow.made("digits", "user:ada", ("user:bob",)))
    assert [row.rules for row in store.names()] == [("user:bob",)]


def test_a_deployment_stays_its_owners(store: Store) -> None:
    mine = msgspec.structs.replace(deployment("echo"), owner="user:ada")
    store.put_deployment(mine)
    with pytest.raises(Conflict, match="somebody else has deployed at echo"):
        store.put_deployment(msgspec.structs.replace(mine, owner="user:bob", replicas=3))
    store.put_deployment(msgspec.structs.replace(mine, replicas=2))
    assert [(row.owner, row.replicas) for row in store.deployments()] == [("user:ada", 2)]


def test_hidden_names_are_unknown(store: Store) -> None:
    store.add_servable(servable("digits", A))
    store.add_servable(servable("pi", A))
    with pytest.raises(UnknownServable, match=r"no servable 'digits' is published; known: pi$"):
        store.resolve("digits@aaaa", hidden={"digits"})
    with pytest.raises(UnknownServable, match=r"no servable 'digit' is published; known: pi$"):
        store.resolve("digit", hidden={"digits"})


def test_what_replicas_ran_is_kept_until_it_is_forgotten(store: Store) -> None:
    rows = [RanRow(replica=f"r-{number}", servable="digits", owner="user:ada") for number in range(3)]
    store.put_ran(rows)
    store.put_ran(rows)
    store.forget_ran(["r-0", "r-9"])
    assert set(store.ran()) == set(rows[1:])


def test_everything_is_there_after_a_restart(place: Path) -> None:
    first = Store(place)
    first.add_servable(servable("digits", A))
    first.set_alias("digits", "stable", A)
    first.put_deployment(deployment("d"))
    first.put_pilot(pilot("p"))
    first.close()
    again = Store(place)
    assert again.servables() == (servable("digits", A),)
    assert again.aliases("digits") == {"latest": A, "stable": A}
    assert again.deployments() == (deployment("d"),)
    assert again.pilots() == (pilot("p"),)
    again.close()


def test_everything_is_there_after_a_kill(place: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from hpcserve.registry.store import Store; "
        "store = Store(Path(sys.argv[1])); store.set_alias('digits', 'stable', sys.argv[2]); os.kill(os.getpid(), 9)"
    )
    store = Store(place)
    store.add_servable(servable("digits", A))
    store.close()
    subprocess.run([sys.executable, "-c", program, str(place), A], check=False, timeout=60)
    store = Store(place)
    assert store.aliases("digits") == {"latest": A, "stable": A}
    store.close()


def test_a_version_is_found_by_its_digest_alone(store: Store) -> None:
    store.add_servable(servable("digits", A))
    assert store.version(A) == servable("digits", A)
    assert store.version(B) is None


def test_publishing_moves_latest(store: Store) -> None:
    assert store.add_servable(servable("digits", A, 1.0))
    assert store.add_servable(servable("digits", C, 2.0))
    assert store.resolve("digits") == ("digits", C)
    assert not store.add_servable(servable("digits", A, 3.0))
    assert store.resolve("digits") == ("digits", A)
    assert [row.version for row in store.servables()] == [C, A]


def test_references(store: Store) -> None:
    for version in (A, B, C):
        store.add_servable(servable("digits", version))
    store.add_servable(servable("pi", A))
    store.set_alias("digits", "stable", A)
    store.set_alias("digits", "cccc", B)
    assert store.resolve("digits@latest") == ("digits", C)
    assert store.resolve("digits@stable") == ("digits", A)
    assert store.resolve("digits@aabb") == ("digits", B)
    assert store.resolve(f"digits@{C}") == ("digits", C)
    assert store.resolve("digits@cccc") == ("digits", B), "an alias comes before a version"
    assert store.resolve("pi@aaaa") == ("pi", A)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("digts", "no servable 'digts' is published; did you mean 'digits'?"),
        ("zzz@latest", "no servable 'zzz' is published; known: digits"),
        ("", "no servable '' is published"),
        ("digits@stabel", "servable 'digits' has no version or alias 'stabel'; did you mean 'stable'?"),
        ("digits@", "servable 'digits' has no version or alias ''"),
        ("digits@aaa", "has no version or alias 'aaa'"),
        ("digits@aaaa", "'digits@aaaa' may mean aaaa11111111, aaaa22222222; write more"),
        ("digits@AAAA1", "has no version or alias 'AAAA1'"),
        ("digits@%", "has no version or alias '%'"),
    ],
)
def test_references_to_nothing(store: Store, reference: str, message: str) -> None:
    store.add_servable(servable("digits", A))
    store.add_servable(servable("digits", Digest("aaaa" + "2" * 60)))
    store.set_alias("digits", "stable", A)
    with pytest.raises(UnknownServable, match=re.escape(message)):
        store.resolve(reference)


def test_nothing_published(store: Store) -> None:
    with pytest.raises(UnknownServable, match="no servable 'digits' is published; there are none"):
        store.resolve("digits")


def test_one_version(store: Store) -> None:
    store.add_servable(servable("digits", A))
    assert store.servable("digits", A) == servable("digits", A)
    with pytest.raises(UnknownServable, match=f"no servable digits@{B} is published"):
        store.servable("digits", B)


def test_aliases(store: Store) -> None:
    store.add_servable(servable("digits", A))
    store.add_servable(servable("digits", B))
    store.set_alias("digits", "stable", A)
    store.set_alias("digits", "stable", B)
    assert store.aliases("digits") == {"latest": B, "stable": B}
    with pytest.raises(UnknownServable):
        store.set_alias("digits", "stable", C)
    with pytest.raises(ConfigError, match="'a@b' cannot be an alias"):
        store.set_alias("digits", "a@b", A)


def test_deployments(store: Store) -> None:
    store.put_deployment(deployment("b", created_s=2.0))
    store.put_deployment(deployment("a", created_s=1.0))
    store.put_deployment(deployment("b", replicas=5, created_s=2.0))
    assert [(row.name, row.replicas) for row in store.deployments()] == [("a", 1), ("b", 5)]
    assert store.remove_deployment(DeploymentName("a"))
    assert not store.remove_deployment(DeploymentName("a"))
    assert [row.name for row in store.deployments()] == ["b"]


def test_pilots(store: Store) -> None:
    store.put_pilot(pilot("p2", 2.0))
    store.put_pilot(pilot("p1", 1.0))
    assert store.update_pilot(PilotId("p1"), state="submitted", job="77")
    assert store.update_pilot(PilotId("p1"), host="node1", public_key="ab")
    assert store.update_pilot(PilotId("p1"))
    assert not store.update_pilot(PilotId("p3"), state="lost")
    assert not store.update_pilot(PilotId("p3"))
    one, two = store.pilots()
    assert (one.id, one.state, one.job, one.host, one.public_key) == ("p1", "submitted", "77", "node1", "ab")
    assert one.ended_s is None
    assert two == pilot("p2", 2.0)
    store.update_pilot(PilotId("p1"), state="ended", ended_s=9.5, cause="walltime")
    assert store.pilots()[0].cause == "walltime"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_texts_and_times_come_back_as_they_were(store: Store, text: str, time_s: float) -> None:
    row = ServableRow(name="a", version=A, manifest_json=text, path=text, created_s=time_s)
    store.add_servable(row)
    assert store.servable("a", A) == row


def test_a_second_process_is_refused_where_the_file_is_locked(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(f"device {tmp_path} nfs rw 0 0\n")
    monkeypatch.setattr(engine, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.1)
    first = Store(place)
    first.add_servable(servable("digits", A))
    with pytest.raises(Conflict, match="another process holds the store .*; is a second daemon running"):
        Store(place)
    first.close()
    second = Store(place)
    assert second.servables() == (servable("digits", A),)
    second.close()


def test_another_thread_is_refused(store: Store) -> None:
    with ThreadPoolExecutor(1) as other, pytest.raises(HpcserveError, match="can only be used in that same thread"):
        other.submit(store.servables).result()
    assert store.servables() == ()


@pytest.mark.parametrize("kind", ["tmpfs", "nfs"])
def test_a_full_disk_refuses_writes_and_goes_on_reading(
    small_disk: Path, fill_disk: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "mounts").write_text(f"device {small_disk} {kind} rw 0 0\n")
    monkeypatch.setattr(engine, "MOUNTS", tmp_path / "mounts")
    store = Store(small_disk / "store.db")
    store.add_servable(servable("digits", A))
    ballast = fill_disk(small_disk)
    large = ServableRow(name="digits", version=B, manifest_json="x" * 200_000, path="/", created_s=2.0)
    for _ in range(2):
        with pytest.raises(StorageFull, match="no room for the store .*; free some space"):
            store.add_servable(large)
        assert store.servables() == (servable("digits", A),)
        assert store.resolve("digits") == ("digits", A)
    ballast.unlink()
    store.add_servable(large)
    assert store.resolve("digits") == ("digits", B)
    store.close()


def test_a_store_cannot_begin_on_a_full_disk(small_disk: Path, fill_disk: Fill) -> None:
    fill_disk(small_disk)
    with pytest.raises(StorageFull, match="no room for the store"):
        Store(small_disk / "store.db")


def test_of_the_pilots_that_ended_the_last_are_kept(store: Store) -> None:
    for number in range(5):
        store.put_pilot(pilot(f"p{number}", submitted_s=number))
        store.update_pilot(PilotId(f"p{number}"), state="ended", ended_s=100.0 - number)
    store.put_pilot(pilot("alive"))
    assert store.forget_pilots("ended", keep=2) == 3
    assert {row.id for row in store.pilots()} == {"p0", "p1", "alive"}
    assert store.forget_pilots("ended", keep=2) == 0


def test_what_served_is_replaced_and_goes_with_its_deployment(store: Store) -> None:
    store.put_deployment(deployment("d"))
    store.put_served(ServedRow(name=DeploymentName("d"), version=A))
    newest = ServedRow(name=DeploymentName("d"), version=B, failed=C, reason="no weights")
    store.put_served(newest)
    assert store.served() == (newest,)
    store.remove_deployment(DeploymentName("d"))
    assert store.served() == ()
    store.put_served(newest)  # by somebody who has not heard of it
    assert store.served() == ()


def test_staged_results_are_noted_once_and_delivered_once(place: Path) -> None:
    first = Store(place)
    row = StagedRow(owner="ada", name="x.h5", size_bytes=1 << 40, written_s=1.0)
    first.add_staged([row, msgspec.structs.replace(row, owner="bob", written_s=2.0)])
    first.add_staged([msgspec.structs.replace(row, written_s=9.0)])
    assert first.staged_delivered("ada", ["x.h5", "y.h5"], 5.0) == 1
    assert first.staged_delivered("ada", ["x.h5"], 6.0) == 1
    first.close()
    again = Store(place)
    assert [(each.owner, each.written_s, each.delivered_s) for each in again.staged()] == [
        ("ada", 1.0, 5.0),
        ("bob", 2.0, None),
    ]
    assert [each.owner for each in again.staged("bob")] == ["bob"]
    assert again.staged("eve") == ()
    again.forget_staged([("ada", "x.h5"), ("eve", "x.h5")])
    assert [each.owner for each in again.staged()] == ["bob"]
    again.close()
