"""What the environment says of the way to services outside: proxies and certificates. As requests reads it."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any


def settle(client: Any) -> None:
    """Has a client of the Globus SDK look up proxies and certificates now, and not at each call.

    That costs a third of a call. ``HTTPS_PROXY``, ``NO_PROXY`` and ``REQUESTS_CA_BUNDLE`` count, the latter where
    ``GLOBUS_SDK_VERIFY_SSL`` names nothing. A ``~/.netrc`` does not: requests 2.34 sends what is in there in place of a
    token, after a redirect.

    Args:
        client: One that has sent nothing yet, with a transport of its own.
    """
    transport = client.transport
    session = transport.session
    settings = session.merge_environment_settings(client.base_url, {}, None, transport.verify_ssl, None)
    session.proxies = dict(settings["proxies"])
    transport.verify_ssl = settings["verify"]
    session.trust_env = False


def trusted() -> ssl.SSLContext:
    """Trusts the system's certificates, and those that ``GLOBUS_SDK_VERIFY_SSL`` or ``REQUESTS_CA_BUNDLE`` names.

    ``GLOBUS_SDK_VERIFY_SSL=false`` counts here as unset: a server that gets a token is always known by its certificate.
    """
    context = ssl.create_default_context()
    for name in ("GLOBUS_SDK_VERIFY_SSL", "REQUESTS_CA_BUNDLE"):
        path = Path(os.environ.get(name) or os.devnull)
        if path.is_file():
            context.load_verify_locations(cafile=path)
        elif path.is_dir():
            context.load_verify_locations(capath=path)
    return context
