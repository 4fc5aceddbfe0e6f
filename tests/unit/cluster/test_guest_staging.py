"""What a container sees of staging: staged results, which it writes, and the roots of references, which it reads."""

from __future__ import annotations

from hpcserve.cluster.containers import Bind
from hpcserve.cluster.guest import STAGED, guest, seen


def test_it_writes_staged_results_and_reads_roots() -> None:
    places = seen("/scratch/staged", ("/data", "/scratch"))
    inside = guest(
        "hpcserve.replica",
        image="/i.sif",
        python="python3",
        packages="",
        servable="/s",
        environment={},
        staging=places,
    )
    assert set(inside.binds[2:]) == {
        Bind("/scratch/staged", STAGED, writable=True),
        Bind("/data", "/opt/hpcserve/roots/0"),
        Bind("/scratch", "/opt/hpcserve/roots/1"),
    }


def test_what_lies_in_another_is_found_first() -> None:
    assert next(iter(seen("/scratch/staged", ("/", "/scratch")))) == "/scratch/staged"


def test_without_staging_it_sees_nothing_of_it() -> None:
    assert seen("", ()) == {}
