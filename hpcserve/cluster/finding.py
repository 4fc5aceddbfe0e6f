"""One thing that was looked at at a site, and what came of a command that was run for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpcserve.cluster.runner import Answer
from hpcserve.errors import SchedulerError

Outcome = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What.
        outcome: Whether it is as it must be; ``warning``: it may be wrong; ``skipped``: it could not be looked at, or
            need not be.
        told: What was seen, and for a failure or a warning what to do.
    """

    subject: str
    outcome: Outcome
    told: str


Asked = Answer | SchedulerError
"""What came of a command: its answer, or that it gave none."""


def no_answer(asked: Asked) -> str:
    """Why a command told nothing."""
    if isinstance(asked, SchedulerError):
        return str(asked)
    return f"{' '.join(asked.argv)}: {asked.stderr or on_one_line(asked) or f'exit code {asked.exit_code}'}"


def on_one_line(answer: Answer) -> str:
    """What it printed, on one line."""
    return " ".join(printed(answer).split())


def printed(answer: Answer) -> str:
    """What it printed."""
    return answer.stdout.decode(errors="replace")
