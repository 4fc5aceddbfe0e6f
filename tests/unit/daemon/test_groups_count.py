"""When it matters who is in which group of Globus: nobody's groups are asked for before."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.config import load_site
from hpcserve.daemon.access import groups_count

ID = "00000000-0000-4000-8000-000000000001"
GLOBUS = f"""
auth = "globus"
access.administer.allow = ["user:ada@lab.gov"]
globus.client_id = "{ID}"
globus.native_client_id = "{ID}"
"""
GROUP = "group:00000000-0000-4000-8000-000000000002"


@pytest.mark.parametrize(
    ("text", "visible_to", "count"),
    [
        (GLOBUS, (), False),
        (GLOBUS, ("*", "id:00000000-0000-4000-8000-000000000003"), False),
        (GLOBUS, ("*", GROUP), True),
        (f'{GLOBUS}globus.groups = ["{GROUP.removeprefix("group:")}"]\n', (), True),
        (f'{GLOBUS}access.publish.allow = ["{GROUP}"]\n', (), True),
        (f'{GLOBUS}access.call.deny = ["{GROUP}"]\n', (), True),
        (f"{GLOBUS}globus.ask_groups = false\n", (GROUP,), False),
        ('auth = "keys"\n', (GROUP,), False),
    ],
)
def test_groups_count(tmp_path: Path, text: str, visible_to: tuple[str, ...], count: bool) -> None:  # noqa: FBT001  a case
    path = tmp_path / "site.toml"
    path.write_text(text)
    assert groups_count(load_site(str(path)), visible_to) is count
