"""``hpcserve.replica.reports``: imports all that a replica does, and says in one line of JSON what that was.

Run by :mod:`hpcserve.bootstrap` in an image, it shows whether a replica could start there. Decides nothing: who asked
compares the answer with itself.
"""

from __future__ import annotations

import importlib
import json
import sys

from hpcserve import __version__
from hpcserve.wire.messages import WIRE_VERSIONS

REPLICA = "hpcserve.replica.__main__"
"""What a replica runs; it does not run when it is imported."""


def main(modules: list[str]) -> None:
    """Imports the replica's own code, and these modules of others."""
    importlib.import_module(REPLICA)
    packages = {name: str(importlib.import_module(name).__version__) for name in modules}
    sys.stdout.write(json.dumps({"software": __version__, "wire": list(WIRE_VERSIONS), "packages": packages}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
