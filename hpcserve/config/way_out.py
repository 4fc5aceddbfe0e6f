"""What the environment says of the way to services outside: proxies and certificates. As requests reads it."""

from __future__ import annotations

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
