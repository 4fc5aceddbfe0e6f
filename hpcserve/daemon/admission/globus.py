"""What a site's ``[globus]`` means for admission."""

from __future__ import annotations

from pathlib import Path

from hpcserve.auth.accounts import Accounts
from hpcserve.auth.globus import Globus, read_secret
from hpcserve.config import Site
from hpcserve.core.tokens import Ages, Tokens
from hpcserve.daemon.access import groups_count
from hpcserve.daemon.admission.checks import Checks
from hpcserve.daemon.admission.logins import Logins
from hpcserve.daemon.registration import rules_of, secret_file

THREADS = 16
"""So many questions to Globus are under way at once."""
KEPT_THREADS = 4
"""So many of them are for questions about those who are in."""
HELLOS = 500.0, 5000.0
"""How often one identity may say HELLO: per second, and at once; a thousand ranks may share one."""


def logins_of(site: Site) -> Logins:
    """The logins of a site that wants some.

    Raises:
        ConfigError: Its mapping of accounts is wrong.
    """
    rules, said = rules_of(site), site.globus
    ages = Ages(said.cache_s, said.groups_cache_s)
    tokens = Tokens(rules, ages, asks_groups=groups_count(site))
    account = Accounts(Path(site.access.accounts)).account if site.access.accounts else None
    return Logins(tokens, rules, keys_per_identity=said.sessions_per_identity, rate=HELLOS, account=account)


def checks_of(site: Site) -> Checks:
    """The threads that ask Globus.

    Raises:
        ConfigError: As :func:`hpcserve.daemon.registration.check_registration`.
    """
    rules, secret = rules_of(site), read_secret(secret_file(site))
    return Checks(lambda: Globus(rules, secret), threads=THREADS, kept=KEPT_THREADS)
