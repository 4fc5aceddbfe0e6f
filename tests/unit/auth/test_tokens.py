"""Where logins are kept: by the key of their service, and for nobody else."""

from __future__ import annotations

import json
import time

import pytest
from msgspec.structs import replace

from hpcserve import config
from hpcserve.auth import tokens
from hpcserve.auth.tokens import Kept
from hpcserve.errors import ConfigError

KEPT = Kept(
    service="rV-6fUb@-s}G3(O[Io+FW9V3}6O-yis@E*TMr58{",
    client_id="native",
    scope="scope",
    resource_server="service",
    access_token="access",
    expires_at=time.time() + 3600,
    refresh_token="refresh",
)


def test_a_login_is_found_by_its_service_alone() -> None:
    tokens.save(KEPT)
    assert tokens.load(KEPT.service) == KEPT
    assert tokens.load("another") is None
    assert tokens.load(KEPT.service, "program") is None
    assert list(tokens.every()) == [KEPT]


def test_a_file_in_anothers_place_is_refused() -> None:
    tokens.save(KEPT)
    tokens.path_of(KEPT.service).rename(tokens.path_of("another"))
    with pytest.raises(ConfigError, match="another service"):
        tokens.load("another")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"service": 1}', b"[]"])
def test_a_broken_file_is_refused_and_not_shown(content: bytes) -> None:
    tokens.save(KEPT)
    tokens.path_of(KEPT.service).write_bytes(content)
    with pytest.raises(ConfigError, match="hpcserve logout, hpcserve login"):
        tokens.load(KEPT.service)


def test_others_must_not_read_it_except_to_end_it() -> None:
    tokens.save(KEPT)
    path = tokens.path_of(KEPT.service)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        tokens.load(KEPT.service)
    assert tokens.read(path, exposed=True) == KEPT


@pytest.mark.parametrize("meanwhile", ["logout", "login", "refreshed"])
def test_a_renewal_does_not_undo_what_somebody_did_meanwhile(meanwhile: str) -> None:
    tokens.save(KEPT)
    if meanwhile == "logout":
        tokens.remove(tokens.path_of(KEPT.service))
    elif meanwhile == "login":
        tokens.save(replace(KEPT, refresh_token="newer", access_token="other"))
    renewed = replace(KEPT, access_token="renewed")
    assert tokens.save_renewed(renewed, KEPT) == (meanwhile == "refreshed")
    found = tokens.load(KEPT.service)
    assert (found and found.access_token) == {"logout": None, "login": "other", "refreshed": "renewed"}[meanwhile]


def test_a_programs_login_has_a_file_of_its_own() -> None:
    program = replace(KEPT, client_id="program", by_secret=True, refresh_token=None)
    tokens.save(KEPT)
    tokens.save(program)
    assert tokens.load(KEPT.service, "program") == program
    assert tokens.load(KEPT.service) == KEPT
    assert program.renews


def test_nothing_else_is_written() -> None:
    tokens.save(KEPT)
    (path,) = tokens.paths()
    assert json.loads(path.read_bytes())["access_token"] == "access"
    assert [each.name for each in tokens.directory().iterdir()] == [path.name]


@pytest.mark.parametrize(("there", "missing"), [("ID", "SECRET"), ("SECRET", "ID")])
def test_half_of_a_programs_credentials_is_an_error(monkeypatch: pytest.MonkeyPatch, there: str, missing: str) -> None:
    assert config.client_credentials() is None
    monkeypatch.setenv(f"HPCSERVE_CLIENT_{there}", "x")
    with pytest.raises(ConfigError, match=f"HPCSERVE_CLIENT_{missing} is not"):
        config.client_credentials()
    monkeypatch.setenv(f"HPCSERVE_CLIENT_{missing}", "y")
    assert set(config.client_credentials() or ()) == {"x", "y"}
