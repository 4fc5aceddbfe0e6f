"""The recorded answers of two generations of Slurm, and commands on PATH that give one of them again.

The recordings whose names begin with ``asked_`` answer the very questions that hpcserve asks. The others were asked
with other columns in text: they are put into the columns that hpcserve asks for, and then read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcserve.cluster import slurm_text
from tests.unit.cluster.slurm_stage import DATA, WIDTHS

RELEASES = ("22.05", "25.11")


def recording(release: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"slurm-{release}" / f"{name}.json").read_text())
    return found


def named(prefix: str, release: str | None = None) -> list[tuple[str, str]]:
    wanted = [release] if release else RELEASES
    return [(one, path.stem) for one in wanted for path in sorted((DATA / f"slurm-{one}").glob(f"{prefix}*.json"))]


def asked_id(answer: dict[str, Any]) -> str:
    argv = answer["argv"]
    found: str = argv[argv.index("-j") + 1]
    return found


def queue_in_our_columns(stdout: str) -> bytes:
    """Lines of ``%i|%T|%r|%P|%u|%j|%M|%l|%L|%D|%C|%N|%S|…`` as the records that hpcserve asks for."""
    records = b""
    for line in stdout.splitlines():
        job, state, reason, _, _, name, _, *rest = line.split("|")
        host = slurm_text.first_node(rest[4])
        fields = (job.partition("_")[0], state, "0", "0", host or "n/a", "N/A", reason, name)
        records += b"".join(f"{field:{width}}|".encode() for field, width in zip(fields, WIDTHS, strict=True)) + b"\n"
    return records


def history_in_our_columns(stdout: str) -> bytes:
    """Lines of the 22 or 23 recorded columns, without the steps, which hpcserve does not ask for."""
    lines = []
    for line in stdout.splitlines():
        columns = line.split("|")
        if "." not in columns[1]:
            lines.append("|".join(columns[place] for place in (1, 3, 4, 19)))
    return "".join(f"{line}\n" for line in lines).encode()


def as_asked(name: str, stdout: str) -> bytes:
    """What a command would have printed for the question that hpcserve asks."""
    if name.startswith("asked_") or "_json_" in name:
        return stdout.encode()
    if name.startswith("squeue_"):
        return queue_in_our_columns(stdout)
    return history_in_our_columns(stdout) if name.startswith("sacct_") else stdout.encode()


def subject(name: str) -> str:
    return re.sub(r"^(squeue|sacct)_(text_X|text|json|default_states)_", "", name)


def replay(directory: Path, answers: Mapping[str, tuple[str, dict[str, Any]]], *, version: str = "22.05.8") -> None:
    """Lays commands into ``directory`` that answer as recorded.

    Args:
        directory: Where PATH will find them.
        answers: By the first words of a command line, ``scontrol ping`` or ``sinfo``: a recording's name, and itself.
        version: What they answer to ``--version``, unless that is what was recorded.
    """
    for words, (name, answer) in answers.items():
        place = directory / words.replace(" ", ".")
        place.with_name(f"{place.name}.out").write_bytes(as_asked(name, answer["stdout"]))
        place.with_name(f"{place.name}.err").write_text(answer["stderr"])
        place.with_name(f"{place.name}.code").write_text(str(answer["exit_code"]))
        command = directory / words.partition(" ")[0]
        command.write_text(_REPLAY.format(version=version))
        command.chmod(0o755)


# Without cat: a site's check looks for commands on this PATH, and must find those of no real Slurm.
_REPLAY = """#!/bin/sh
answer=$0.$1
[ -e "$answer.out" ] || answer=$0
if [ "$1" = --version ] && [ "${{0##*/}}" != sinfo ]; then
    echo "slurm {version}"
    exit
fi
[ "${{0##*/}}" = sbatch ] && /bin/cat >/dev/null
/bin/cat "$answer.out"
/bin/cat "$answer.err" >&2
exit "$(/bin/cat "$answer.code")"
"""
