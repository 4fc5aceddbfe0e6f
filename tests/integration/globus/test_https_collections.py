"""Files of a collection by HTTPS, with a token of the collection's own."""

from __future__ import annotations

import contextlib
import os

import pytest
import requests

from hpcserve.testing.globus.records import TRANSFER_ALL
from hpcserve.testing.globus.scopes import parse
from tests.integration.globus.transfers import Transfers


@pytest.fixture
def files(transfers: Transfers) -> Files:
    setting, facility = transfers.setting, transfers.facility
    scope = f"{facility.https_scope}[*{facility.data_access}]"
    token = setting.tokens(scope).by_resource_server[facility.id]["access_token"]
    return Files(transfers, str(token))


class Files:
    """Asks as any HTTPS client would, at the address that ``get_endpoint`` gives."""

    def __init__(self, transfers: Transfers, token: str) -> None:
        self.transfers = transfers
        self.token = token
        self.address = transfers.client().get_endpoint(transfers.facility.id)["https_server"]

    def ask(self, method: str, path: str, *, token: str | None = None, **more: object) -> requests.Response:
        bearer = {"Authorization": f"Bearer {self.token if token is None else token}"}
        headers = {**bearer, **dict(more.pop("headers", {}))}  # type: ignore[call-overload]
        # A path with dots goes as it is.
        request = requests.Request(method, self.address, headers=headers, **more).prepare()  # type: ignore[arg-type]
        request.url = f"{self.address}{path}"
        with requests.Session() as session:
            return session.send(request, verify=self.transfers.setting.ca, timeout=60)

    def stream(self, path: str, headers: dict[str, str]) -> requests.Response:
        bearer = {"Authorization": f"Bearer {self.token}"}
        ca = self.transfers.setting.ca
        return requests.get(f"{self.address}{path}", headers=bearer | headers, verify=ca, stream=True, timeout=60)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_file_is_written_and_read(files: Files, size: int) -> None:
    contents = os.urandom(size)
    assert files.ask("PUT", "/new%20file", data=contents).status_code == 200
    assert (files.transfers.facility.root / "new file").read_bytes() == contents
    read = files.ask("GET", "/new%20file")
    assert (read.status_code, read.content) == (200, contents)
    head = files.ask("HEAD", "/new%20file")
    assert (head.headers["content-length"], head.headers["accept-ranges"], head.content) == (str(size), "bytes", b"")


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-0", 206, 0, 0),
        ("bytes=10-19", 206, 10, 19),
        ("bytes=990-", 206, 990, 999),
        ("bytes=990-5000", 206, 990, 999),
        ("bytes=-10", 206, 990, 999),
        ("bytes=-5000", 206, 0, 999),
        ("bytes=1000-", 416, 0, -1),
        ("bytes=-0", 416, 0, -1),
        ("bytes=0-1,5-6", 200, 0, 999),
        ("lines=1-2", 200, 0, 999),
    ],
)
def test_a_part_of_a_file(files: Files, asked: str, status: int, first: int, last: int) -> None:
    contents = files.transfers.write("a")
    read = files.ask("GET", "/a", headers={"Range": asked})
    assert read.status_code == status
    if status == 206:
        assert read.headers["content-range"] == f"bytes {first}-{last}/1000"
    if status == 416:
        assert read.headers["content-range"] == "bytes */1000"
    else:
        assert read.content == contents[first : last + 1]


def test_who_may_not(files: Files) -> None:
    transfers, world = files.transfers, files.transfers.setting.world
    transfers.write("a")
    scope, native = transfers.facility.https_scope, transfers.setting.native
    transfers.facility.users = frozenset()
    guest = world.add_person("bob@lab.example")
    theirs = world.token_for(guest, native, scope).value
    world.consent(guest.id, native.id, parse(f"{scope}[*{transfers.facility.data_access}]"))
    for token, status, code in (
        ("unheard-of", 401, "AuthenticationFailed"),
        (world.token_for(transfers.setting.person, native, TRANSFER_ALL).value, 403, "PermissionDenied"),
        (theirs, 403, "permission_denied"),
    ):
        refused = files.ask("GET", "/a", token=token)
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert files.ask("PUT", "/a", token=token, data=b"other").status_code == status
    world.withdraw(guest.id)
    theirs = world.token_for(guest, native, scope).value
    refused = files.ask("GET", "/a", token=theirs)
    assert refused.json()["required_scopes"] == [f"{scope}[*{transfers.facility.data_access}]"]
    assert (transfers.facility.root / "a").stat().st_size == 1000


def test_paths_that_lead_out_are_refused(files: Files) -> None:
    root = files.transfers.facility.root
    (root.parent / "secret").write_bytes(b"secret")
    (root / "out").symlink_to(root.parent)
    for path in ("/../secret", "/%2e%2e/secret", "/x/../../secret", "/out/secret", "/..%2Fsecret"):
        for method in ("GET", "HEAD", "PUT"):
            assert files.ask(method, path, data=b"x" if method == "PUT" else None).status_code == 403, path
    assert (root.parent / "secret").read_bytes() == b"secret"


def test_what_cannot_be_done(files: Files) -> None:
    transfers = files.transfers
    (transfers.facility.root / "d").mkdir()
    assert files.ask("GET", "/nowhere").status_code == 404
    assert files.ask("PUT", "/no/directory", data=b"x").status_code == 404
    assert files.ask("GET", "/d").status_code == 403
    assert files.ask("DELETE", "/d").status_code == 405
    transfers.facility.trouble.quota_bytes = 10
    assert files.ask("PUT", "/a", data=b"x" * 11).status_code == 507
    assert files.ask("PUT", "/a", data=b"x" * 10).status_code == 200
    transfers.facility.trouble.read_only = True
    assert files.ask("PUT", "/a", data=b"x").status_code == 403
    transfers.facility.trouble.gone = True
    assert files.ask("GET", "/a").status_code == 502
    address = files.address.replace(transfers.facility.id, transfers.laptop.id)
    bearer = {"Authorization": f"Bearer {files.token}"}
    gone = requests.get(f"{address}/a", headers=bearer, verify=transfers.setting.ca, timeout=60)
    assert gone.status_code == 404  # A laptop has no HTTPS.


def test_a_wrong_byte_goes_unseen_by_https(files: Files) -> None:
    trouble = files.transfers.facility.trouble
    trouble.corrupt = 1
    files.ask("PUT", "/a", data=b"right")
    assert files.ask("GET", "/a").content != b"right"
    files.ask("PUT", "/a", data=b"right")
    trouble.corrupt = 1
    assert files.ask("HEAD", "/a").headers["content-length"] == "5"
    assert [files.ask("GET", "/a").content == b"right" for _ in range(2)] == [False, True]


def test_a_download_that_breaks_off_is_gone_on_with(files: Files) -> None:
    contents = files.transfers.write("a", 3_000_001)
    files.transfers.facility.trouble.cut = 2
    got = b""
    for _ in range(3):
        answer = files.stream("/a", {"Range": f"bytes={len(got)}-"})
        with contextlib.closing(answer), contextlib.suppress(requests.RequestException):
            for piece in answer.iter_content(1 << 16):
                got += piece
        assert contents.startswith(got)
    assert got == contents
