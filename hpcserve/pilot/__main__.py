"""``python -m hpcserve.pilot --record PATH --enrolment PATH``: the first process of a pilot job."""

from __future__ import annotations

import argparse
import logging
import stat
import sys
from functools import partial
from pathlib import Path

import msgspec

from hpcserve.errors import ConfigError, HpcserveError
from hpcserve.pilot.agent import Agent
from hpcserve.wire.launch import Enrolment, decode_enrolment


def read_enrolment(path: Path) -> Enrolment:
    """The enrolment in a file of mode 0600.

    Raises:
        ConfigError: The file is missing, readable by others, or something else.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the enrolment file: {error}") from error
    if mode & 0o077:
        raise ConfigError(f"{path}: mode {mode:04o} lets others read this pilot's secret; it must be 0600")
    try:
        return decode_enrolment(content)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: not an enrolment: {error}") from error


def main() -> int:
    """Runs an agent; its exit code is 0 for an orderly end."""
    parser = argparse.ArgumentParser(prog="python -m hpcserve.pilot", description=__doc__)
    parser.add_argument("--record", type=Path, required=True, help="the service record")
    parser.add_argument("--enrolment", type=Path, required=True, help="the enrolment file of this pilot job")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        enrolment = read_enrolment(options.enrolment)
        return Agent(options.record, enrolment, partial(options.enrolment.unlink, missing_ok=True)).run()
    except HpcserveError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 (said in full; a traceback adds nothing)
        return 1


if __name__ == "__main__":
    sys.exit(main())
