"""Whether a daemon could ask Globus who somebody is, as `hpcserve site check` and `hpcserve up` look."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.auth.private import private_directory
from hpcserve.config import Site, load_site
from hpcserve.daemon.registration import check_registration, secret_file
from hpcserve.errors import ConfigError

ID = "0f1e2d3c-0000-4000-8000-000000000001"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    file = tmp_path / "here.toml"
    file.write_text(
        f'state_dir = "{tmp_path}/state"\nshared_dir = "{tmp_path}/shared"\nauth = "globus"\n'
        f'[access]\nadminister = {{ allow = ["user:root@lab.example"] }}\n'
        f'[globus]\nclient_id = "{ID}"\nnative_client_id = "{ID}"\n'
    )
    site = load_site(str(file))
    private_directory(secret_file(site).parent)
    secret_file(site).touch(0o600)
    secret_file(site).write_text("secret\n")
    return site


@pytest.mark.parametrize("value", ["false", "0", "off", "/no/such/file"])
def test_globus_must_be_known_by_its_certificate(site: Site, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.delenv("GLOBUS_SDK_VERIFY_SSL", raising=False)
    check_registration(site)
    monkeypatch.setenv("GLOBUS_SDK_VERIFY_SSL", value)
    with pytest.raises(ConfigError, match="GLOBUS_SDK_VERIFY_SSL"):
        check_registration(site)
