"""The site file of a service with ``auth = "globus"``, of a stand-in."""

from __future__ import annotations

from tests.acceptance.newcomer import User
from tests.integration.globus.setting import SECRET, Setting

SITE = """
base = "local"
auth = "globus"

[globus]
client_id = "{service}"
client_secret_file = "{secret}"
native_client_id = "{native}"
{globus}
[access]
call = {{ allow = ["*"] }}
publish = {{ allow = ["*"] }}
deploy = {{ allow = ["*"] }}
administer = {{ allow = ["{administer}"] }}
{more}
"""


def write_site(user: User, setting: Setting, *, globus: str = "", administer: str = "*", more: str = "") -> None:
    """Has somebody's ``hpcserve up`` serve so.

    Args:
        user: Who operates the service.
        setting: Its stand-in, and its clients there.
        globus: Further lines of ``[globus]``.
        administer: Who administers it.
        more: Further tables.
    """
    user.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    user.home.chmod(0o700)
    (user.home / "sites").mkdir(mode=0o700)
    secret = user.home / "secret"
    secret.touch(0o600)
    secret.write_text(f"{SECRET}\n")
    site = SITE.format(
        service=setting.service.id,
        secret=secret,
        native=setting.native.id,
        globus=globus,
        administer=administer,
        more=more,
    )
    (user.home / "sites" / "local.toml").write_text(site)
