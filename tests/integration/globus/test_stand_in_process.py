"""``python -m hpcserve.testing.globus``: a stand-in for programs of other processes, steered by HTTP."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
import requests

from hpcserve.testing.globus.records import TRANSFER_ALL


class Process:
    """A running stand-in and how it is spoken to."""

    def __init__(self, directory: Path, exports: dict[str, str], pid: int) -> None:
        self.pid = pid
        self.directory = directory
        self.exports = exports
        self.site: dict[str, Any] = tomllib.loads((directory / "site.toml").read_text())
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = exports["GLOBUS_SDK_VERIFY_SSL"]

    def order(self, name: str, values: dict[str, Any] | None = None, *, method: str = "POST", status: int = 200) -> Any:
        url = f"{self.exports['GLOBUS_SDK_SERVICE_URL_AUTH']}stand-in/{name}"
        answer = self._session.request(method, url, json=values, timeout=60)
        assert answer.status_code == status, answer.text
        return answer.json()

    def close(self) -> None:
        self._session.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    directory = tmp_path_factory.mktemp("stand-in") / "globus"
    argv = [sys.executable, "-m", "hpcserve.testing.globus", str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [re.fullmatch(r"export ([A-Z_]+)=(\S+)\n", child.stdout.readline()) for _ in range(4)]
        process = Process(directory, {line[1]: line[2] for line in lines if line}, child.pid)
        yield process
        process.close()
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0


@pytest.fixture(autouse=True)
def _environment(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in process.exports.items():
        monkeypatch.setenv(name, value)


def browse(address: str, status: int = 0) -> str:
    argv = [sys.executable, "-m", "hpcserve.testing.globus.browser", address]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def test_a_browser_for_programs_says_why_there_is_no_code(process: Process) -> None:
    address = f"{process.exports['GLOBUS_SDK_SERVICE_URL_AUTH']}v2/oauth2/authorize?client_id=x"
    assert browse(address, status=1) == "no client 'x' is registered\n"
    assert "is no address of a stand-in" in browse("https://auth.globus.org/v2/oauth2/authorize", status=1)


def test_what_cannot_be_a_stand_in_is_said_in_a_line(tmp_path: Path) -> None:
    said = browse("https://localhost:1/x", status=1)
    assert said.startswith("no stand-in answers at https://localhost:1/x")
    file = tmp_path / "file"
    file.write_text("x")
    argv = [sys.executable, "-m", "hpcserve.testing.globus", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{file}: File exists" in done.stderr


def test_its_service_makes_policies_and_has_guest_collections(process: Process, tmp_path: Path) -> None:
    settings = process.site["globus"]
    secret = globus_sdk.BasicAuthorizer(settings["client_id"], Path(settings["client_secret_file"]).read_text().strip())
    auth = globus_sdk.AuthClient(authorizer=secret)
    made = auth.create_policy(
        project_id="any", display_name="short", description="short", authentication_assurance_timeout=20
    )
    assert auth.get_policy(made["policy"]["id"])["policy"]["authentication_assurance_timeout"] == 20
    owner = f"{settings['client_id']}@clients.auth.globus.org"
    facility = process.site["staging"]["collections"][0]["id"]
    results = {"name": "results", "kind": "guest", "owner": owner, "root": str(tmp_path), "host": facility}
    assert process.order("collections", results)["root"] == str(tmp_path)


def test_a_site_file_and_a_secret_lie_ready(process: Process) -> None:
    settings = process.site["globus"]
    secret = Path(settings["client_secret_file"])
    assert [oct(path.stat().st_mode & 0o777) for path in (secret, process.directory)] == ["0o600", "0o700"]
    service = globus_sdk.ConfidentialAppAuthClient(settings["client_id"], secret.read_text().strip())
    native = globus_sdk.NativeAppAuthClient(settings["native_client_id"])
    native.oauth2_start_flow(requested_scopes=f"openid https://auth.globus.org/scopes/{settings['client_id']}/all")
    code = browse(native.oauth2_get_authorize_url()).strip()
    token = native.oauth2_exchange_code_for_tokens(code).by_resource_server[settings["client_id"]]["access_token"]
    handed = service.oauth2_get_dependent_tokens(token).by_resource_server["groups.api.globus.org"]["access_token"]
    groups = globus_sdk.GroupsClient(authorizer=globus_sdk.AccessTokenAuthorizer(handed)).get_my_groups()
    assert [group["id"] for group in groups] == settings["groups"]


def test_it_is_steered_by_orders(process: Process) -> None:
    settings = process.site["globus"]
    service = globus_sdk.ConfidentialAppAuthClient(
        settings["client_id"], Path(settings["client_secret_file"]).read_text().strip()
    )

    def told(token: str) -> Any:
        return service.oauth2_token_introspect(token, include="identity_set_detail").data

    def token(**more: Any) -> str:
        order = {"client": settings["native_client_id"], "scope": scope, "username": "ada@lab.example", **more}
        return str(process.order("tokens", order)["access_token"])

    scope = f"https://auth.globus.org/scopes/{settings['client_id']}/all"
    ada = process.order("people", {"username": "ada@lab.example"})["id"]
    process.order("people", {"username": "ada@site.example", "linked": "ada@lab.example", "second_factor": True})
    assert process.order("sign-in", {"username": "ada@lab.example"}) == {"id": ada}
    group = process.order("groups", {"name": "new", "members": ["ada@lab.example"]})["id"]
    assert process.order("groups", {"id": group, "members": []}) == {"id": group}
    first, second = token(), token()
    assert {each["username"] for each in told(first)["identity_set_detail"]} == {"ada@lab.example", "ada@site.example"}
    identities = told(token(by="ada@site.example"))["identity_set_detail"]
    logins = {each["username"]: each["last_authentication"] for each in identities}
    assert [logins[name] is None for name in ("ada@lab.example", "ada@site.example")] == [True, False]
    program = process.order("clients", {"name": "nightly", "secret": "of-nightly"})
    nightly = globus_sdk.ConfidentialAppAuthClient(program["id"], "of-nightly")
    its = nightly.oauth2_client_credentials_tokens(scope).by_resource_server[settings["client_id"]]["access_token"]
    assert told(its)["username"] == program["username"]
    process.order("revoke", {"token": first})
    process.order("expire", {"token": second})
    assert [told(each) for each in (first, second)] == [{"active": False}] * 2
    process.order("settings", {"lifetime_s": 5, "approving": True})
    third = told(token())
    assert third["exp"] - third["iat"] == 5
    process.order("settings", {"lifetime_s": 172_800})
    fourth = token()
    process.order("withdraw", {"username": "ada@lab.example", "scope": scope})
    assert told(fourth) == {"active": False}


def test_faults_are_orders_too(process: Process) -> None:
    client = globus_sdk.NativeAppAuthClient("x")
    path = "GET /.well-known/openid-configuration"
    before = process.order("asked", method="GET").get(path, 0)
    process.order("faults", {"pattern": path, "drop": ["issuer"]})
    assert "issuer" not in client.get_openid_configuration().data
    process.order("faults", {"pattern": path, "stall_s": 600})
    process.order("faults", {"pattern": path, "status": 404, "times": None})
    process.order("faults", method="DELETE")
    assert "issuer" in client.get_openid_configuration().data
    process.order("faults", {"pattern": path, "status": 404, "times": 1})
    with pytest.raises(globus_sdk.GlobusAPIError):
        client.get_openid_configuration()
    assert process.order("asked", method="GET")[path] == before + 3


def test_collections_and_their_troubles_are_orders(process: Process) -> None:
    scope, person = TRANSFER_ALL, {"username": "eve@lab.example"}
    process.order("people", person)
    owner, native = person["username"], process.site["globus"]["native_client_id"]
    opened = [
        process.order("collections", {"name": name, "owner": owner, "kind": "personal"}) for name in ("one", "two")
    ]
    vault = process.order("collections", {"name": "vault", "owner": owner, "domain": "vault.example"})
    (Path(opened[0]["root"]) / "a").write_bytes(b"contents")
    process.order("transfers", {"retry_s": 0.02})
    process.order("trouble", {"collection": opened[1]["id"], "offline": True})
    token = process.order("tokens", {**person, "client": native, "scope": scope})["access_token"]
    client = globus_sdk.TransferClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))
    assert client.get_endpoint(opened[1]["id"])["gcp_connected"] is False
    assert client.get_endpoint(vault["id"])["high_assurance"] is True
    data = globus_sdk.TransferData(opened[0]["id"], opened[1]["id"], verify_checksum=True)
    data.add_item("/a", "/b")
    task = client.submit_transfer(data)["task_id"]
    deadline = time.monotonic() + 60
    while client.get_task(task)["nice_status"] != "GC_NOT_CONNECTED":
        assert time.monotonic() < deadline
    process.order("trouble", {"collection": opened[1]["id"], "offline": False})
    assert client.task_wait(task, timeout=60, polling_interval=1)
    assert (Path(opened[1]["root"]) / "b").read_bytes() == b"contents"


def test_a_disk_that_takes_no_more_is_a_fault_of_the_task(process: Process) -> None:
    """By the system itself: the stand-in may write no file that is larger."""
    owner, native = "joe@lab.example", process.site["globus"]["native_client_id"]
    process.order("people", {"username": owner})
    home = process.order("collections", {"name": "home", "owner": owner, "kind": "personal"})
    process.order("transfers", {"retry_s": 0.02})
    token = process.order("tokens", {"username": owner, "client": native, "scope": TRANSFER_ALL})["access_token"]
    client = globus_sdk.TransferClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))
    (Path(home["root"]) / "a").write_bytes(b"1" * 100_000)
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        data = globus_sdk.TransferData(home["id"], home["id"], fail_on_quota_errors=True)
        data.add_item("/a", "/b")
        task = client.submit_transfer(data)["task_id"]
        assert client.task_wait(task, timeout=60, polling_interval=1)
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
    assert client.get_task(task)["fatal_error"]["code"] == "QUOTA_EXCEEDED"


def started(directory: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "hpcserve.testing.globus", str(directory)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_second_one_in_the_same_directory_is_refused_and_harms_nothing(process: Process) -> None:
    before = {path: path.read_bytes() for path in process.directory.iterdir() if path.is_file()}
    with started(process.directory) as second:
        told = second.communicate(timeout=60)
    assert (second.returncode, told[0]) == (1, "")
    assert "another stand-in runs there" in told[1]
    assert {path: path.read_bytes() for path in process.directory.iterdir() if path.is_file()} == before


def test_started_again_it_is_the_same(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        with started(tmp_path / "globus") as child:
            assert child.stdout is not None
            address = child.stdout.readline()
            files = [(tmp_path / "globus" / name).read_text() for name in ("site.toml", "client_secret")]
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 0
        seen.append((address, files))
    assert seen[0] == seen[1]
    assert not [path for path in (tmp_path / "globus").iterdir() if path.is_file() and "PRIVATE" in path.read_text()]


def exports_of(child: subprocess.Popen[str]) -> dict[str, str]:
    assert child.stdout is not None
    lines = [re.fullmatch(r"export ([A-Z_]+)=(\S+)\n", child.stdout.readline()) for _ in range(4)]
    return {line[1]: line[2] for line in lines if line}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_started_again_it_goes_on_with_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    directory = tmp_path / "globus"

    def client(process: Process) -> globus_sdk.TransferClient:
        for name, value in process.exports.items():
            monkeypatch.setenv(name, value)
        asked = {
            "username": person,
            "client": process.site["globus"]["native_client_id"],
            "scope": TRANSFER_ALL,
        }
        token = process.order("tokens", asked)["access_token"]
        return globus_sdk.TransferClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))

    def submit(globus: globus_sdk.TransferClient, to: str, name: str, submission: str = "") -> str:
        data = globus_sdk.TransferData(laptop, to, verify_checksum=True)
        data.add_item("/a", name)
        if submission:
            data["submission_id"] = submission
        return str(globus.submit_transfer(data)["task_id"])

    with started(directory) as child:
        process = Process(directory, exports_of(child), child.pid)
        person = process.site["access"]["administer"]["allow"][0].removeprefix("user:")
        laptop = json.loads((directory / "ids.json").read_text())["laptop"]
        root = directory / "collections" / "laptop"
        (root / "a").write_bytes(b"contents")
        globus = client(process)
        done = submit(globus, laptop, "/done")
        assert globus.task_wait(done, timeout=60, polling_interval=1)
        other = process.order("collections", {"name": "other", "owner": person, "kind": "personal"})["id"]
        process.order("people", {"username": "guest@lab.example"})
        theirs = process.order("collections", {"name": "theirs", "owner": "guest@lab.example", "kind": "personal"})[
            "id"
        ]
        for each in (laptop, other, theirs):
            process.order("trouble", {"collection": each, "stalled": True})
        submission = str(globus.get_submission_id()["value"])
        under_way, homeless = submit(globus, laptop, "/b", submission), submit(globus, other, "/c")
        unwanted = submit(globus, laptop, "/unwanted")
        globus.cancel_task(unwanted)
        process.close()
        child.send_signal(how)
        child.wait(60)
    assert not (root / "b").exists()
    with started(directory) as child:
        process = Process(directory, exports_of(child), child.pid)
        globus = client(process)
        assert globus.get_task(done)["status"] == "SUCCEEDED"
        assert globus.task_wait(under_way, timeout=60, polling_interval=1)
        assert globus.get_task(under_way)["status"] == "SUCCEEDED"
        assert (root / "b").read_bytes() == b"contents"
        assert submit(globus, laptop, "/b", submission) == under_way, "one submission id is one task"
        assert globus.get_task(unwanted)["status"] == "FAILED"
        assert not (root / "unwanted").exists()
        assert "without this collection" in globus.get_task(homeless)["fatal_error"]["description"]
        process.close()
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "cryptography.py").write_text("raise ModuleNotFoundError('no cryptography', name='cryptography')\n")
    argv = [sys.executable, "-m", "hpcserve.testing.globus", str(tmp_path / "globus")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: it needs cryptography, which is not installed; pip install 'hpcserve[globus]'\n"


def test_two_collections_lie_ready(process: Process) -> None:
    [facility] = process.site["staging"]["collections"]
    assert facility["prefix"] == process.site["staging"]["directory"], "else nothing could travel from there"
    assert Path(facility["prefix"]) == process.directory / "collections" / "facility"
    assert all((process.directory / "collections" / name).is_dir() for name in ("facility", "laptop"))


@pytest.mark.parametrize(
    ("name", "values", "status"),
    [
        ("unheard-of", {}, 404),
        ("people", {}, 400),
        ("sign-in", {"username": "nobody"}, 400),
        ("tokens", {"client": "x"}, 400),
        ("settings", {"colour": 1}, 400),
        ("settings", {"lifetime_s": "long"}, 400),
        ("faults", {"pattern": "("}, 400),
        ("faults", {"pattern": "(", "status": 503}, 400),
        ("clients", {"name": "nightly"}, 400),
        ("collections", {"name": "x", "owner": "nobody"}, 400),
        ("trouble", {"collection": "x"}, 400),
        ("transfers", {"speed": 1}, 400),
    ],
)
def test_a_wrong_order_is_refused(name: str, values: dict[str, Any], status: int, process: Process) -> None:
    message = process.order(name, values, status=status)["message"]
    assert message
    assert "Error" not in message, "said in words"


@pytest.mark.parametrize(
    "wrong", [{"bytes_per_s": 0}, {"bytes_per_s": "x"}, {"offline": 1}, {"cut": -1}, {"colour": 1}]
)
def test_a_trouble_that_cannot_be_is_refused(wrong: dict[str, Any], process: Process) -> None:
    order = {"collection": process.site["staging"]["collections"][0]["id"], **wrong}
    message = process.order("trouble", order, status=400)["message"]
    assert "expected" in message
    assert next(iter(wrong)) in message


def test_what_is_not_there_is_not_found(process: Process) -> None:
    client = globus_sdk.NativeAppAuthClient("x")
    for path, status in (("/v2/oauth2/nothing", 404), ("/v2/oauth2/token", 405), ("/nothing", 404)):
        with pytest.raises(globus_sdk.GlobusAPIError) as refused:
            client.get(path)
        assert refused.value.http_status == status
    assert os.environ["GLOBUS_SDK_VERIFY_SSL"].startswith(str(process.directory))
