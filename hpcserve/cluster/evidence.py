"""The lines of a job's output that say why it ended: of Slurm's daemon on the node, and of a missing Python. Pure.

Source: slurmd's ``slurmstepd/req.c`` and ``common/log``; seen with Slurm 22.05:
``slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T19:02:11 DUE TO TIME LIMIT ***``.
"""

from __future__ import annotations

import re

from hpcserve.types import LossKind

MOST_LINES = 3
_SAID: tuple[tuple[re.Pattern[str], LossKind], ...] = (
    (re.compile(r"\*\*\* (?:JOB|STEP) .*DUE TO TIME LIMIT"), "walltime"),
    (re.compile(r"\*\*\* (?:JOB|STEP) .*DUE TO PREEMPTION"), "preempted"),
    (re.compile(r"\*\*\* (?:JOB|STEP) .*DUE TO (?:NODE FAIL|NODEFAIL)|[Nn]ode failure on "), "node failed"),
    (re.compile(r"oom[-_ ]kill|[Ee]xceeded (?:job |step )?memory limit|Out [Oo]f [Mm]emory"), "out of memory"),
    (re.compile(r"\*\*\* (?:JOB|STEP) .*CANCELLED AT "), "cancelled"),
)

_NO_PYTHON = re.compile(
    r"^.*(?:python\S*: (?:No such file|cannot execute|Permission denied)|No module named '?hpcserve).*$", re.MULTILINE
)


def no_python(output: str) -> str:
    """The last line in which a job says that its Python is not there or lacks hpcserve, and what to do; else empty."""
    found = _NO_PYTHON.findall(output)
    return f"{found[-1].strip()}; compute nodes need pilots.python with hpcserve in it" if found else ""


def evidence(output: str) -> tuple[LossKind, str]:
    """What the end of a job's output says of its end.

    Args:
        output: The last of what the job printed.

    Returns:
        The kind of the last line that says any, and the lines that say it; empty where there is none.
    """
    kind: LossKind = ""
    lines: list[str] = []
    for line in output.splitlines():
        said: LossKind = next((each for pattern, each in _SAID if pattern.search(line)), "")
        if said == "cancelled" and kind == "out of memory":
            continue  # that is how it is ended for it, on each of its nodes
        if said:
            lines = [*lines, line] if said == kind else [line]
            kind = said
    return kind, "\n".join(lines[-MOST_LINES:])
