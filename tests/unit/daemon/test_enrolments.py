"""What laying down an enrolment file raises where the directory of the logs cannot be looked at, or made."""

import errno
from pathlib import Path

import pytest

from hpcserve.auth import private
from hpcserve.config import Site
from hpcserve.daemon.controller.enrolments import Enrolments
from hpcserve.errors import ConfigError, HpcserveError, SchedulerError, StorageFull
from hpcserve.registry.rows import PilotRow
from hpcserve.types import PilotId


def lay_down(place: Path, logs: Path) -> None:
    row = PilotRow(id=PilotId("p1"), incarnation="i1", state="submitting", secret_sha256="", submitted_s=0.0)
    Enrolments(Site(name="lab", state_dir=place, shared_dir=place), logs).lay_down(row, "secret")


def test_logs_that_the_file_system_does_not_show_are_a_fault_that_may_pass(tmp_path: Path) -> None:
    # A name too long is refused with an OSError to whoever it is, as a stale handle is; no mode keeps root out.
    with pytest.raises(SchedulerError, match="cannot look at directory|cannot make directory"):
        lay_down(tmp_path, tmp_path / ("l" * 300))


def test_a_file_where_the_logs_are_to_be_stays_there(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        lay_down(tmp_path, tmp_path / "logs")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ESTALE, SchedulerError),
        (errno.EIO, SchedulerError),
        (errno.EACCES, ConfigError),
        (errno.EROFS, ConfigError),
        (errno.ENOSPC, StorageFull),
    ],
)
def test_only_a_fault_that_nobody_need_mend_is_asked_about_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[HpcserveError]
) -> None:
    def refuses(path: Path, _content: bytes) -> None:
        error = OSError(number, "so the file system says")
        raise private.storage_error(error, f"cannot write {path}") from error

    monkeypatch.setattr(private, "replace", refuses)
    with pytest.raises(kind, match="so the file system says|make room"):
        lay_down(tmp_path, tmp_path / "logs")
