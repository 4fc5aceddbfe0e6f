"""Logins that are kept: one of an owner's at most, and the one before where the next cannot be written down."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from hpcserve.errors import HpcserveError
from hpcserve.registry.deliveries import KeptLogin, keep_login, kept_logins
from hpcserve.registry.store import Store


def test_the_one_before_is_there_until_the_next_is(tmp_path: Path) -> None:
    refuse = "CREATE TRIGGER no BEFORE INSERT ON kept_logins WHEN NEW.sealed = 'c' BEGIN SELECT RAISE(ABORT, 'no'); END"
    store = Store(tmp_path / "store.db")
    keep_login(store, KeptLogin(owner="ada", sealed="a"))
    keep_login(store, KeptLogin(owner="ada", sealed="b"))
    with store.transaction() as connection:
        connection.execute(sa.text(refuse))
    with pytest.raises((HpcserveError, sa.exc.IntegrityError)):
        keep_login(store, KeptLogin(owner="ada", sealed="c"))
    assert kept_logins(store) == (KeptLogin(owner="ada", sealed="b"),)
    store.close()
