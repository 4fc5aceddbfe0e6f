"""A browser for programs: it goes where a login page sends it, and reads the code that the last page shows.

``python -m hpcserve.testing.globus.browser ADDRESS`` prints that code.
"""

from __future__ import annotations

import html
import os
import re
import ssl
import sys
from http.client import InvalidURL
from urllib.error import HTTPError
from urllib.request import urlopen

TIMEOUT_S = 60.0


class NotApproved(Exception):
    """The pages show an error in place of a code. The message is what they say."""


def log_in(url: str, ca: str) -> str:
    """Open the address that a login from a terminal prints.

    Args:
        url: That address, of a stand-in.
        ca: Path of the certificate that the stand-in's is signed with.

    Returns:
        The code to paste into the terminal.

    Raises:
        NotApproved: There is no code.
    """
    if not url.startswith("https://localhost:"):
        raise NotApproved(f"{url} is no address of a stand-in: it begins https://localhost:")
    try:
        context = ssl.create_default_context(cafile=ca)
        with urlopen(url, timeout=TIMEOUT_S, context=context) as answer:  # noqa: S310 (https it is, see above)
            page = answer.read().decode()
    except HTTPError as error:
        page = error.read().decode()
    except (OSError, InvalidURL) as error:
        raise NotApproved(f"no stand-in answers at {url}: {error}") from error
    if code := re.search(r'id="auth-code">([^<]+)<', page):
        return html.unescape(code[1])
    reason = re.search(r'id="error">([^<]+)<', page)
    raise NotApproved(html.unescape(reason[1]) if reason else page)


def main(address: str) -> int:
    """Print the code for an address; the certificate is that of the environment."""
    try:
        code = log_in(address, os.environ.get("GLOBUS_SDK_VERIFY_SSL", ""))
    except NotApproved as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{code}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
