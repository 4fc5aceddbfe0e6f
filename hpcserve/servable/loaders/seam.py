"""What a loader is: the seam for kinds of servables. Third parties add theirs by an entry point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpcserve.servable.api import Context
from hpcserve.servable.manifest import Manifest, MethodSpec

if TYPE_CHECKING:
    from hpcserve.servable.loaded import Loaded

ENTRY_POINTS = "hpcserve.loaders"
"""The group of entry points; each names a class without arguments that is a :class:`Loader`."""


class Loader(Protocol):
    """Turns a servable's directory into something that runs."""

    def check(self, manifest: Manifest, directory: Path) -> None:
        """Checks what can be checked without running the servable's code: fields and files.

        Raises:
            ManifestError: A field that this loader needs is missing or wrong, or a file is not there.
        """

    def discover(self, manifest: Manifest, directory: Path) -> dict[str, MethodSpec]:
        """The methods, those that the code declares included. Runs the servable's code, but no ``setup``.

        Raises:
            ManifestError: The manifest and the code contradict each other.
            ServableError: The code failed.
        """

    def load(self, manifest: Manifest, context: Context) -> Loaded:
        """Makes the servable ready to run.

        Raises:
            ManifestError: As for :meth:`discover`.
            ServableError: The servable's code failed, its ``setup`` included.
        """
