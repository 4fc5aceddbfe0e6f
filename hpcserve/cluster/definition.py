"""The definition file of a servable's image, and what names its content. Pure.

An image is another one with packages of Python, files and the outcome of commands put over it. The packages are
gathered beforehand, so that a build needs no network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

RECIPE = 3
"""Counts up when the same plan makes another image."""
LABEL = "hpcserve.build"
"""The label by which an image tells what it was made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """All that decides what is in an image.

    Attributes:
        base: The sha256 of the image below.
        python: The version of its Python, and its machine.
        requirements: What pip was asked for.
        files: The sha256 and the target of each file.
        post: The commands.
    """

    base: str
    python: str
    requirements: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    post: tuple[str, ...]

    @property
    def key(self) -> str:
        """Names it."""
        said = [RECIPE, self.base, self.python, self.requirements, self.files, self.post]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def definition(
    base: str, *, key: str, copies: Sequence[tuple[str, str]], post: Sequence[str], labels: Sequence[str] = ()
) -> str:
    """The definition file.

    Args:
        base: The path of the image below.
        key: That of its :class:`Content`.
        copies: What is copied, and where to; neither has a space in it.
        post: Commands of the shell that run in it, in this order; the first that fails ends the build.
        labels: Further ones, each a name and a value.
    """
    parts = [f"Bootstrap: localimage\nFrom: {base}\n"]
    if copies:
        parts.append("%files\n" + "".join(f"    {source} {target}\n" for source, target in copies))
    if post:
        parts.append("%post\n    set -e\n" + "".join(f"    {line}\n" for line in post))
    parts.append("%labels\n" + "".join(f"    {line}\n" for line in (f"{LABEL} {key}", *labels)))
    return "\n".join(parts)
