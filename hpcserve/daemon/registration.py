"""The service's registration at Globus: what it demands, where its secret lies, and whether a daemon could use it."""

from __future__ import annotations

from pathlib import Path

from hpcserve.auth.globus import check_verifies, read_secret
from hpcserve.config import Site, expanded
from hpcserve.core.claims import Rules
from hpcserve.daemon.launch import SERVICE_KEY

SECRET_NAME = "globus.secret"  # noqa: S105 (the name of a file)
"""The default one, beside the service's key."""


def secret_file(site: Site) -> Path:
    """Where the secret of the service's client is."""
    named = site.globus.client_secret_file
    return expanded(named) if named else (site.state_dir / SERVICE_KEY).with_name(SECRET_NAME)


def rules_of(site: Site) -> Rules:
    """What the site demands of a token."""
    said = site.globus
    return Rules(
        client_id=said.client_id,
        login_client_id=said.native_client_id,
        scope=said.service_scope,
        issuer=said.issuer,
        policies=said.required_policies,
        domains=said.domains,
        groups=said.groups,
        mfa=said.require_mfa,
    )


def check_registration(site: Site) -> None:
    """Whether a daemon of this site could ask Globus who somebody is. Globus itself is not asked.

    Raises:
        ConfigError: The Globus SDK is not installed or would not check Globus's certificate, or the secret's file is
            not there or is open to others.
    """
    if site.auth == "globus":
        check_verifies()
        read_secret(secret_file(site))
