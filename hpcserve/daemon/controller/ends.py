"""How a pilot ended, from the scheduler's word, the agent's exit code and what the job printed. Pure."""

from __future__ import annotations

import re

from hpcserve.cluster.evidence import evidence, no_python
from hpcserve.cluster.processes import exit_in_words
from hpcserve.cluster.script import SETUP_FAILED
from hpcserve.cluster.seam import JobState
from hpcserve.core.losses import pilot_loss
from hpcserve.types import LossKind
from hpcserve.wire import exits

EXITS: dict[int, LossKind] = {
    exits.VERSION_MISMATCH: "version mismatch",
    exits.ORPHANED: "unreachable",
    exits.NO_ENROLMENT: "unreachable",
    exits.REFUSED: "unreachable",
}
_SCRIPT = re.compile(r"^hpcserve: (.+)$", re.MULTILINE)
_WIRE = re.compile(r"no common wire version: .+")
_NO_START = frozenset({1, 126, 127})
"""Python's own for a module that is not there, and a shell's for a command that cannot be run or found."""
_MORE_MEMORY = "raise pilots.memory_per_node_mib or lower pilots.slots in the site file"


def pilot_end(state: JobState, output: str) -> tuple[LossKind, str]:
    """Why a pilot ended, in one term and in words.

    Args:
        state: What the scheduler says of its end.
        output: The end of what it printed.
    """
    kind = pilot_loss(str(state.end), state.exit_code, EXITS)
    if kind == "crashed":
        said, lines = evidence(output)
        if said:
            return said, _shown(said, lines)
        return kind, _by_itself(state, output)
    if kind == "version mismatch":
        return kind, f"{kind}: {_last(_WIRE, output) or state.cause}; pilots.python says which Python the agent has"
    return kind, state.cause


def _shown(kind: LossKind, lines: str) -> str:
    """The scheduler may have a word for it that misleads: 22.05 calls a job that was killed for its memory FAILED."""
    line = lines.rpartition("\n")[2].strip()
    return f"{line}; {_MORE_MEMORY}" if kind == "out of memory" else line


def _by_itself(state: JobState, output: str) -> str:
    if state.exit_code is None:
        return state.cause
    if state.exit_code == SETUP_FAILED:
        return _last(_SCRIPT, output) or state.cause
    if state.exit_code in _NO_START:
        said = no_python(output)
        if said:
            return said
    ended = exit_in_words(state.exit_code)
    if ended in state.cause:
        return state.cause
    return f"{ended} ({state.cause})" if state.cause else ended


def _last(pattern: re.Pattern[str], output: str) -> str:
    found = pattern.findall(output)
    return str(found[-1]) if found else ""
