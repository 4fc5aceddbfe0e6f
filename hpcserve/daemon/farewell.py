"""What becomes of the pilots of a daemon that was told to go down: they are cancelled, kept or drained.

It is written down in the state directory, since the controller may die before it is done, and the next one goes on with
it. Whoever starts a daemon begins without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from hpcserve.auth import private
from hpcserve.auth.private import storage_error

FILE = "going-down"

Farewell = Literal["cancel", "keep", "drain"]
"""``keep``: they go on, and the next daemon takes them over. ``drain``: they finish what they run, and then end."""


def unbidden(*, placed: bool) -> Farewell:
    """What becomes of the pilots when nobody has said: a daemon in a job leaves them to the next one."""
    return "keep" if placed else "cancel"


def write(state_dir: Path, farewell: Farewell) -> None:
    """Writes it down.

    Raises:
        StorageFull: There is no room for it.
        ConfigError: It cannot be written for another reason.
    """
    private.replace(state_dir / FILE, farewell.encode())


def read(state_dir: Path) -> Farewell | None:
    """What was written down; None: nobody told the daemon to go down, or nobody wrote down how."""
    try:
        said = (state_dir / FILE).read_text()
    except OSError:
        return None  # as without one: the pilots are cancelled
    return next((each for each in get_args(Farewell) if each == said), None)


def clear(state_dir: Path) -> None:
    """A daemon begins, or its pilots are cancelled after all.

    Raises:
        HpcserveError: The word of an earlier end is there and cannot be removed.
    """
    try:
        (state_dir / FILE).unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, f"cannot remove {state_dir / FILE}") from error
