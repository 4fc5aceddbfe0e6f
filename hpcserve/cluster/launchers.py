"""Launcher ``process``: one rank, started by the agent itself on its own node."""

from __future__ import annotations


class ProcessLauncher:
    """Runs a replica as a plain process."""

    def command(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """``argv``, unchanged."""
        return argv
