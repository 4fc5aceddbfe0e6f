"""The real globus_sdk of this process speaks to a stand-in of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.globus.setting import Setting, standing_in
from tests.integration.globus.transfers import Transfers, between


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    with standing_in(tmp_path / "globus") as setting:
        for name, value in setting.globus.environment.items():
            monkeypatch.setenv(name, value)
        yield setting


@pytest.fixture
def transfers(setting: Setting) -> Transfers:
    return between(setting)
