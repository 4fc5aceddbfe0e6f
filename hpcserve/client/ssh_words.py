"""What it means that ssh ended: from its exit code and its own words to an error that says what to do. Pure.

ssh's words are those of OpenSSH, which has them in English only. An exit code of 255 is ssh's own; every other one is
that of the command there. Source: ssh(1).
"""

from __future__ import annotations

import re

from hpcserve.client.ssh_address import SshAddress
from hpcserve.errors import AuthenticationError, ConfigError, HpcserveError, ServiceUnavailable, VersionMismatch

OWN = 255
NOT_FOUND, NOT_EXECUTABLE = 127, 126
USAGE = 2
_FIRST_CHARACTERS, _LAST_CHARACTERS = 200, 500
_WRONG_KEY = ("Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED", "host key is known for")
_REFUSED = ("Permission denied (", "Too many authentication failures", "No supported authentication methods")
_NO_PLACE = ("Bad configuration option", "terminating, ", "Bad local forwarding")


class Unreached(ServiceUnavailable):
    """There is no way to the login node now: what runs there is not known."""


def ended(address: SshAddress, code: int, said: bytes, printed: bytes) -> HpcserveError:
    """The error of an ssh that ended before there was a greeting.

    Args:
        address: Where it was to lead.
        code: Its exit code; negative: the signal that ended it.
        said: What is on its standard error.
        printed: What came in place of the greeting.
    """
    words = shown(said)
    quoted = f": {words}" if words else ""
    if code == OWN:
        return _of_ssh(address, words, quoted)
    told = "; ".join(filter(None, (words, f"it printed: {shown(printed)}" if shown(printed) else "")))
    if code == NOT_FOUND:
        return ConfigError(
            f"{address.host} has no command {address.command!r} where ssh looks, which runs no login profile ({told}); "
            f"give its path: {_with_command(address)}"
        )
    if code == NOT_EXECUTABLE:
        return ConfigError(
            f"{address.command!r} on {address.host} cannot be run ({told}); give the path of hpcserve there"
        )
    if code == USAGE and "no such command" in words:
        return VersionMismatch(
            f"hpcserve on {address.host} is too old to be reached by ssh ({words}): upgrade hpcserve there"
        )
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return Unreached(
        f"`ssh {address.login} {address.remote_command()}` {how} and did not greet ({told or 'it said nothing'}); try "
        "that command by hand"
    )


def _of_ssh(address: SshAddress, words: str, quoted: str) -> HpcserveError:
    if any(each in words for each in _WRONG_KEY):
        return AuthenticationError(
            f"ssh does not know the host key of {address.host}, or it has changed{quoted}; connect by hand, and "
            f"compare the key with what the site publishes: ssh {address.login}"
        )
    if any(each in words for each in _REFUSED):
        return AuthenticationError(
            f"ssh cannot log in to {address.host} without asking{quoted}; use a key that ssh-agent holds, or have ssh "
            "keep a connection that you open by hand: ControlMaster auto, ControlPath ~/.ssh/%C and ControlPersist 8h "
            f"in ~/.ssh/config, then: ssh {address.login}"
        )
    if any(each in words for each in _NO_PLACE):
        return ConfigError(f"ssh cannot use the address {address.text}{quoted}; correct it, or ~/.ssh/config")
    return Unreached(
        f"ssh cannot reach {address.host}{quoted or ': it said nothing'}; try by hand: ssh {address.login}"
    )


def silent(address: SshAddress, waited_s: float, said: bytes, printed: bytes) -> HpcserveError:
    """The error of an ssh that neither greets nor ends."""
    told = "; ".join(filter(None, (shown(said), f"it printed: {shown(printed)}" if shown(printed) else "")))
    return Unreached(
        f"`ssh {address.login} {address.remote_command()}` did not greet within {waited_s:g} s "
        f"({told or 'it said nothing'}); try that command by hand"
    )


def lost(address: SshAddress, said: bytes, reason: str) -> str:
    """Why a tunnel that once stood does not any more."""
    told = ": ".join(filter(None, (reason, shown(said))))
    return f"the connection by ssh to {address.host} was lost{f' ({told})' if told else ''}"


def shown(said: bytes) -> str:
    """What others have printed, as one line without control characters: its beginning and its end, where it is long."""
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", said.decode(errors="replace"))
    plain = "".join(each if each.isprintable() else " " for each in text)
    words = " ".join(word for word in plain.split() if word.strip("@"))  # ssh frames its warnings with @
    if len(words) <= _FIRST_CHARACTERS + _LAST_CHARACTERS:
        return words
    return f"{words[:_FIRST_CHARACTERS]} … {words[-_LAST_CHARACTERS:]}"


def _with_command(address: SshAddress) -> str:
    base = address.text.partition("?")[0]
    return f"'{base}?command=/path/to/hpcserve'"
