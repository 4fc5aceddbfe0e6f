"""One account serves many: by no route can a caller have it read, write or remove what is another caller's.

The routes by which a path comes in: references, the directory that is published and the image that it names, the place
of results, the results that are said to be delivered, the results that a replica tells of, and the names of logs. Where
a reference leads to on the disk, tests/unit/replica/test_references.py has; what is removed, test_staged_files.py.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hpcserve.config import Site, load_site
from hpcserve.core.sessions import Session
from hpcserve.daemon.broker.staging import Places, places_of
from hpcserve.daemon.controller.callers import anchor_of, check_directory, check_manifest
from hpcserve.daemon.controller.logs import read_logs
from hpcserve.errors import HpcserveError, InvalidInput, ManifestError, PermissionDenied
from hpcserve.registry.content import digest_of, entries, read_blocks
from hpcserve.registry.ingest import ingest
from hpcserve.registry.vault import keep
from hpcserve.servable.manifest import Environment, Manifest, Ranks
from hpcserve.types import Counter, SessionId
from hpcserve.wire import admin
from hpcserve.wire import messages as wire
from hpcserve.wire.hub import Asker, Identity, ResultStaged

COLLECTION = "00000000-0000-0000-0000-000000000001"
SITE = f"""
mode = "service"
auth = "globus"
[globus]
client_id = "00000000-0000-0000-0000-00000000000a"
native_client_id = "00000000-0000-0000-0000-00000000000b"
[access.administer]
allow = ["user:root@uni.edu"]
[containers]
runtime = "apptainer"
[staging]
quota_bytes = 1073741824
[[staging.collections]]
id = "{COLLECTION}"
prefix = "/"
kind = "guest"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path / "home"))
    (tmp_path / "site.toml").write_text(SITE)
    made = load_site(str(tmp_path / "site.toml"))
    for owner in ("ada", "bob"):
        (Path(made.staging_dir) / owner).mkdir(parents=True)
    return made


@pytest.fixture
def places(site: Site) -> Places:
    return places_of(site)


def session(name: str) -> Session:
    made = Session(SessionId(name.encode()))
    made.identity, made.resumed = Asker(Identity(name), made.id), True
    return made


def request(*references: str, reply: str = "auto") -> wire.Request:
    return wire.Request(Counter(1), "model", "run", wire.EMPTY_LIST, reply=reply, references=references)


# --- references ---------------------------------------------------------------------------------------


def test_a_reference_leads_into_the_callers_own_directory_alone(places: Places) -> None:
    own = f"{places.directory}/ada/x.h5"
    assert places.check(request(f"file:{own}#/x"), session("ada")) == (f"{own}#/x",)
    assert places.check(request(f"globus://{COLLECTION}{own}"), session("ada")) == (f"{own}#",)
    assert places.readable(session("ada")) == (f"{places.directory}/ada",)


@pytest.mark.parametrize(
    "path",
    [
        "{staged}/bob/x.h5",
        "{staged}/adam/x.h5",
        "{staged}/x.h5",
        "{staged}/.service",
        "/etc/passwd",
        "{home}/sites/site/state/keys/service.key",
    ],
)
def test_a_reference_leads_nowhere_else(places: Places, site: Site, path: str) -> None:
    path = path.format(staged=places.directory, home=site.state_dir.parents[2])
    for uri in (f"file:{path}", f"globus://{COLLECTION}{path}"):
        with pytest.raises(PermissionDenied, match="outside of what you may name here"):
            places.check(request(uri), session("ada"))


def test_who_is_not_known_yet_names_nothing(places: Places) -> None:
    with pytest.raises(PermissionDenied):
        places.check(request(f"file:{places.directory}/ada/x.h5"), Session(SessionId(b"nobody")))


def test_with_globus_a_directory_is_named_by_the_identitys_id(places: Places) -> None:
    made = session("ada@uni.edu")
    made.identity = Asker(Identity("ada@uni.edu", id="00000000-0000-0000-0000-00000000000c"), made.id)
    assert places.own(made) == "00000000-0000-0000-0000-00000000000c"


def test_a_detour_is_refused_before_it_is_looked_at(places: Places) -> None:
    for detour in ("/../bob/x.h5", "/%2e%2e/bob/x.h5", "/x/../../bob/x"):
        with pytest.raises(InvalidInput):
            places.check(request(f"file:{places.directory}/ada{detour}"), session("ada"))


def test_a_request_has_few_references_and_a_known_reply(places: Places) -> None:
    with pytest.raises(InvalidInput, match="at most 64"):
        places.check(request(*("file:/x",) * 65), session("ada"))
    with pytest.raises(InvalidInput, match="reply is '../bob'; expected one of inline, auto, staged"):
        places.check(request(reply="../bob"), session("ada"))


# --- where results go, and which are told of ------------------------------------------------------------


@pytest.mark.parametrize("name", ["../bob", "..", ".service", "", "a/b", "bob/../ada", "x" * 300])
def test_a_callers_name_makes_no_path(places: Places, name: str) -> None:
    own = places.own(session(name))
    assert "/" not in own
    assert own not in ("", ".", "..", "bob", ".service")


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("{staged}/ada/x.h5", "ada"),
        ("{staged}/bob/x.h5", None),
        ("{staged}/ada/../bob/x.h5", None),
        ("{staged}/ada/.x.h5", None),
        ("{staged}/ada/", None),
        ("/etc/passwd", None),
        ("x.h5", None),
    ],
)
def test_a_replica_can_tell_of_its_callers_files_alone(places: Places, path: str, owner: str | None) -> None:
    """What the controller hears of it may remove later."""
    staged = wire.Staged(path.format(staged=places.directory), 3, ())
    result = wire.Result(SessionId(b"ada"), Counter(1), staged=staged)
    expected = None if owner is None else ResultStaged(owner, "x.h5", 3)
    assert places.news(result, {SessionId(b"ada"): session("ada")}) == expected


# --- what is published ----------------------------------------------------------------------------------


def test_a_caller_publishes_from_its_own_directory(site: Site) -> None:
    own = Path(site.staging_dir) / "ada"
    (own / "model").mkdir()
    (own / "model" / "servable.toml").touch()
    check_directory(site, "ada", str(own / "model"))
    (own / "link").symlink_to(Path(site.staging_dir) / "bob")
    for path in (
        str(Path(site.staging_dir) / "bob"),
        str(own / "link"),
        f"{own}/../bob",
        "/etc",
        str(own / "missing"),
        "model",
    ):
        with pytest.raises((PermissionDenied, InvalidInput)):
            check_directory(site, "ada", path)


@pytest.mark.parametrize("swapped", ["ada", "ada/model", "ada/model/sub"])
def test_a_directory_that_becomes_a_link_while_it_is_read_leads_nowhere(site: Site, swapped: str) -> None:
    """Whose directory it is may change it between any two looks at it."""
    secrets = site.state_dir / "keys"
    for below in ("", "sub", "model/sub"):
        (secrets / below).mkdir(parents=True, exist_ok=True)
        (secrets / below / "a.key").write_text("secret")
    source, anchor = Path(site.staging_dir) / "ada" / "model", Path(site.staging_dir)
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a.key").write_text("public")
    listing = entries(source, anchor)
    (anchor / swapped).rename(anchor / "away")
    (anchor / swapped).symlink_to(secrets)
    read: list[bytes] = []
    with pytest.raises(ManifestError, match="cannot read"):
        read_blocks(source, listing[0], read.append, anchor=anchor)
    assert read == []
    with pytest.raises(ManifestError, match="Not a directory"):
        digest_of(source, listing, anchor)
    with pytest.raises(ManifestError, match="cannot read directory|leads nowhere|outside the servable's directory"):
        keep(source, site.shared_dir, anchor)
    with pytest.raises((PermissionDenied, ManifestError)):
        ingest(source, site.shared_dir, timeout_s=60, anchor=anchor)


def test_a_manifest_is_read_from_the_copy_alone(site: Site) -> None:
    """That of a caller may be a link by now."""
    source = Path(site.staging_dir) / "ada" / "model"
    source.mkdir()
    site.state_dir.mkdir(parents=True, exist_ok=True)
    (site.state_dir / "secret").write_text("secret = ")
    (source / "servable.toml").symlink_to(site.state_dir / "secret")
    with pytest.raises(ManifestError, match="outside the servable's directory"):
        ingest(source, site.shared_dir, timeout_s=60, anchor=anchor_of(site))
    with pytest.raises(PermissionDenied, match="symbolic link"):
        check_directory(site, "ada", str(source))


def manifest(environment: Environment) -> Manifest:
    return Manifest(name="model", loader="python", entry="a:B", methods={}, environment=environment)


def test_a_servable_names_an_image_of_its_own(site: Site) -> None:
    own = Path(site.staging_dir) / "ada" / "model.sif"
    own.touch()
    check_manifest(site, "ada", manifest(Environment(kind="container", image=str(own))))
    others = Path(site.staging_dir) / "bob" / "model.sif"
    others.touch()
    (own.parent / "link.sif").symlink_to(others)
    for image in (others, own.parent / "link.sif", Path("/etc/passwd")):
        with pytest.raises(PermissionDenied):
            check_manifest(site, "ada", manifest(Environment(kind="container", image=str(image))))
    with pytest.raises(ManifestError, match="in containers only"):
        check_manifest(site, "ada", manifest(Environment()))


def test_ranks_whose_containers_see_each_others_processes_are_for_publishers_who_are_trusted(site: Site) -> None:
    own = Path(site.staging_dir) / "ada" / "model.sif"
    own.touch()
    one = manifest(Environment(kind="container", image=str(own)))
    two = msgspec.structs.replace(one, ranks=Ranks(size=2))
    check_manifest(site, "ada", one)
    with pytest.raises(ManifestError, match=r"ranks.size is 2, .* or ask .* containers.trust_publishers"):
        check_manifest(site, "ada", two)
    trusting = msgspec.structs.replace(site.containers, trust_publishers=True)
    check_manifest(msgspec.structs.replace(site, containers=trusting), "ada", two)


def test_in_mode_personal_a_user_names_what_a_user_may(site: Site) -> None:
    personal = msgspec.structs.replace(site, mode="personal")
    check_directory(personal, "ada", "/etc")
    check_manifest(personal, "ada", manifest(Environment()))


# --- logs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../staged/bob/x", "/etc/passwd", "..", ".", "a/../../x", "daemon-../x"])
def test_a_logs_name_is_no_path(site: Site, name: str) -> None:
    logs = site.shared_dir / "logs"
    logs.mkdir(parents=True)
    (site.shared_dir / "staged" / "bob" / "x.log").write_text("secret")
    with pytest.raises(HpcserveError):
        read_logs(logs, admin.AskLogs(name=name), writers=[], deployments=[])
