"""What must be there before the daemon starts: its directories, its key, and in personal mode its user's.

The directory of its sockets belongs to whoever holds the lease: that one makes it, and removes it at its end. What
a daemon that was killed has left there serves the next one of the same state directory.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from hpcserve.auth.authorized import authorize
from hpcserve.auth.keys import CLIENT_KEY, KeyPair, load_or_create
from hpcserve.auth.private import private_directory
from hpcserve.config import Site, home, runtime_dir
from hpcserve.daemon.launch import AUTHORIZED_KEYS, SERVICE_KEY
from hpcserve.daemon.logs import log_path


def prepare(site: Site) -> KeyPair:
    """Makes what is missing, and refuses what others could have tampered with.

    Returns:
        The service's key.

    Raises:
        ConfigError: A directory or a key is open to others, not ours or broken.
        StorageFull: The disk is full.
    """
    private_directory(site.state_dir)
    private_directory(site.shared_dir, secret=False)
    private_directory(log_path(site.shared_dir, "supervisor").parent, secret=False)
    keys = load_or_create(site.state_dir / SERVICE_KEY)
    client = load_or_create(home() / CLIENT_KEY)
    authorize(site.state_dir / AUTHORIZED_KEYS, user_name(), client.public)
    return keys


def make_runtime_dir(site: Site) -> Path:
    """The directory of the daemon's sockets. Only the holder of the lease may call this.

    Raises:
        ConfigError: It is open to others or not ours.
        StorageFull: The disk is full.
    """
    return private_directory(runtime_dir(site.state_dir))


def user_name() -> str:
    """The name of the user whose process this is."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
