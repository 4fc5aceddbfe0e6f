"""The tasks in a file, so that a stand-in that is started again goes on with them.

What had moved is not written down: a task that had not ended begins anew, as its files are what it was to move.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpcserve.testing.globus.transfer_tasks import Task


class Journal:
    """A file of tasks.

    Args:
        path: Where it is, if any were noted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Task]:
        """Those that were noted last, in their order. Those that had not ended are as if just submitted."""
        if not self._path.exists():
            return []
        tasks = msgspec.json.decode(self._path.read_bytes(), type=list[Task])
        return [each.anew() if each.unfinished else each for each in tasks]

    def note(self, tasks: list[Task]) -> None:
        """These are all."""
        new = self._path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(tasks))
        new.replace(self._path)
