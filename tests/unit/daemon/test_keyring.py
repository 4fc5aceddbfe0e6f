"""Which keys are in, and until when."""

from __future__ import annotations

from hpcserve.daemon.broker.keyring import LATE_S, Keyring
from hpcserve.wire.hub import AdmitKey

KEY, AGENT = b"k" * 32, b"a" * 32


def test_a_key_that_nobody_renews_is_over_when_its_time_is() -> None:
    keyring = Keyring()
    keyring.admit(AdmitKey(AGENT, "agent", "p1"), 0.0)
    keyring.admit(AdmitKey(KEY, "client", "ada", lasts_s=60.0), 0.0)
    assert keyring.over(60.0) == [], "admission may still say why"
    assert keyring.over(60.0 + LATE_S) == [KEY]


def test_a_renewal_counts_from_its_own_time() -> None:
    keyring = Keyring()
    keyring.admit(AdmitKey(KEY, "client", "ada", lasts_s=60.0), 0.0)
    keyring.admit(AdmitKey(KEY, "client", "ada", lasts_s=60.0), 50.0)
    assert keyring.over(62.0) == []
    assert keyring.over(112.0) == [KEY]
    keyring.admit(AdmitKey(KEY, "client", "ada"), 113.0)
    assert keyring.over(1e9) == [], "with a list of keys there is no end"


def test_who_is_revoked_is_not_over_again() -> None:
    keyring = Keyring()
    keyring.admit(AdmitKey(KEY, "client", "ada", lasts_s=1.0), 0.0)
    keyring.revoke(KEY)
    assert keyring.over(1e9) == []
