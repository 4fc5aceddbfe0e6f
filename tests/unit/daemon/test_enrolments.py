"""What laying down an enrolment file raises where the directory of the logs cannot be looked at."""

from pathlib import Path

import pytest

from hpcserve.config import Site
from hpcserve.daemon.controller.enrolments import Enrolments
from hpcserve.errors import ConfigError
from hpcserve.registry.rows import PilotRow
from hpcserve.types import PilotId


def test_logs_that_the_file_system_does_not_show_are_an_error_of_ours(tmp_path: Path) -> None:
    # A name too long is refused with an OSError to whoever it is, as a stale handle is; no mode keeps root out.
    logs = tmp_path / ("l" * 300)
    row = PilotRow(id=PilotId("p1"), incarnation="i1", state="submitting", secret_sha256="", submitted_s=0.0)
    enrolments = Enrolments(Site(name="lab", state_dir=tmp_path, shared_dir=tmp_path), logs)
    with pytest.raises(ConfigError, match="cannot look at directory|cannot make directory"):
        enrolments.lay_down(row, "secret")
