"""What PBS's states, substates, exit status and comments mean."""

from __future__ import annotations

import json

import pytest

from hpcserve.cluster import pbs_json
from hpcserve.cluster.pbs import state_of
from hpcserve.cluster.pbs_json import PbsJob, hosts_of, id_parts, parse_jobs, same_job
from hpcserve.cluster.pbs_states import OWN_STATUS, is_given_up
from hpcserve.cluster.seam import JobEnd, JobState
from hpcserve.errors import SchedulerError
from tests.unit.cluster.pbs_stage import answer, job


def state(**fields: object) -> JobState:
    (told,) = parse_jobs(answer({"1.pbs": job(**fields)}).encode())
    return state_of(told)


@pytest.mark.parametrize(
    ("letter", "substate", "phase", "words"),
    [
        ("Q", 10, "queued", ""),
        ("H", 20, "queued", "qrls"),
        ("H", 22, "queued", "waits for another job"),
        ("W", 30, "queued", "not start before"),
        ("T", 0, "queued", "moved to another queue"),
        ("R", 41, "running", ""),
        ("R", 42, "running", ""),
        ("R", 71, "queued", "prepared"),
        ("R", 72, "queued", "prepared"),
        ("S", 43, "suspended", "stopped"),
        ("U", 43, "suspended", "stopped"),
        ("E", 51, "running", "cleans up"),
        ("E", 50, "running", "cleans up"),
        ("B", 70, "running", "array"),
        ("M", 94, "unknown", "moved to another PBS server"),
        ("X", 69, "unknown", "array"),
        ("C", 59, "unknown", "does not know"),
        ("", 42, "unknown", "no state"),
        ("RR", 42, "unknown", "does not know"),
        ("R", 92, "unknown", "do not fit"),
        ("F", 42, "unknown", "do not fit"),
        ("F", None, "unknown", "do not fit"),
        ("F", 95, "unknown", "do not fit"),
        ("F", 94, "unknown", "moved to another PBS server"),
    ],
)
def test_each_state_is_a_phase(letter: str, substate: int | None, phase: str, words: str) -> None:
    found = state(job_state=letter or None, substate=substate, Exit_status=0 if letter in ("E", "F") else None)
    assert (found.phase, found.end) == (phase, None)
    assert words in found.cause


@pytest.mark.parametrize(
    ("substate", "status", "host", "end", "code"),
    [
        (92, 0, True, "completed", 0),
        (93, 7, True, "failed", 7),
        (93, 256 + 9, True, "failed", -9),
        (93, 256 + 15, True, "failed", -15),
        (93, 256, True, "failed", None),
        (93, 256 + 200, True, "failed", None),
        (91, 271, True, "cancelled", None),
        (91, 0, True, "cancelled", None),
        (91, None, False, "cancelled", None),
        (91, None, True, "cancelled", None),
        (92, None, False, "never started", None),  # a dependency that was not met
        (92, None, True, "?", None),
        (93, None, True, "?", None),
        (93, 0, True, "?", None),
        (93, -29, True, "walltime", None),
        (91, -29, True, "walltime", None),
        (93, -999, True, "?", None),
    ],
)
def test_each_end_is_told_and_only_a_success_is_one(
    *, substate: int, status: int | None, host: bool, end: JobEnd, code: int | None
) -> None:
    nodes = {} if host else {"exec_host": None, "exec_vnode": None, "run_count": None}
    found = state(job_state="F", substate=substate, Exit_status=status, **nodes)
    assert (found.phase, found.end, found.exit_code) == ("ended", end, code)


# As ``job.h`` of OpenPBS and the Reference Guide have them: JOB_EXEC_FAIL1 is -1, JOB_EXEC_KILL_MEM is -27, and so on.
WRITTEN_BY_PBS: dict[JobEnd, tuple[int, ...]] = {
    "never started": (-1, -2, -3, -10, -13, -16, -17, -21, -22, -23),
    "node failed": (-4, -5, -6, -14, -20, -30),
    "failed": (-7, -24, -25, -28),
    "out of memory": (-26, -27, -31),
    "cancelled": (-19,),
    "walltime": (-29,),
    "?": (-11, -12, -15, -18, -32),
}


@pytest.mark.parametrize(("end", "status"), [(end, each) for end, all_ in WRITTEN_BY_PBS.items() for each in all_])
def test_what_pbs_writes_in_the_place_of_an_exit_code_is_no_exit_code(end: JobEnd, status: int) -> None:
    for substate in (91, 93):
        found = state(job_state="F", substate=substate, Exit_status=status)
        assert (found.end, found.exit_code) == (end, None)
        assert OWN_STATUS[status][1] in found.cause


def test_all_that_pbs_writes_itself_is_known() -> None:
    assert sorted(each for all_ in WRITTEN_BY_PBS.values() for each in all_) == sorted(OWN_STATUS)


@pytest.mark.parametrize(
    ("comment", "end"),
    [
        ("Job run at … and exceeded resource mem", "out of memory"),
        ("Cgroup memory limit exceeded", "out of memory"),
        ("job preempted by deletion", "preempted"),
        ("Job run at … on (n:ncpus=1) in queue preemptable and failed", "failed"),
        ("and failed", "failed"),
    ],
)
def test_a_comment_tells_why_a_job_was_killed(comment: str, end: JobEnd) -> None:
    assert state(job_state="F", substate=93, Exit_status=265, comment=comment).end == end


@pytest.mark.parametrize(
    ("held", "what"),
    [
        ("u", "held by its user; `qrls 1.pbs` lets it go"),
        ("o", "held by an operator; ask the facility"),
        ("s", "held by PBS or an administrator; ask the facility"),
        ("us", "held by its user and PBS or an administrator; ask the facility"),
    ],
)
def test_who_may_let_a_held_job_go_is_told(held: str, what: str) -> None:
    assert what in state(job_state="H", substate=20, Hold_Types=held).cause


def test_an_impossible_request_stays_queued_and_says_what_to_lower() -> None:
    found = state(
        job_state="Q", substate=10, exec_host=None, comment="Can Never Run: Insufficient amount of resource: ngpus"
    )
    assert found.phase == "queued"
    assert "pilots.gpus_per_node" in found.cause
    assert "Can Never Run" in found.cause


@pytest.mark.parametrize("letter", ["R", "S", "E"])
def test_of_a_job_that_has_begun_an_older_comment_says_nothing(letter: str) -> None:
    found = state(job_state=letter, comment="Can Never Run: Insufficient amount of resource: ngpus")
    assert found.phase != "queued"
    assert "pilots." not in found.cause


def test_only_a_job_that_is_held_is_given_up_by_pbs() -> None:
    often = "job held, too many failed attempts to run"
    assert is_given_up(only(answer({"1.pbs": job(job_state="H", substate=20, comment=often)})))
    for letter in ("Q", "R"):  # `qrls` has let it go since
        assert not is_given_up(only(answer({"1.pbs": job(job_state=letter, substate=10, comment=often)})))


@pytest.mark.parametrize(
    ("letter", "runs", "restarts"),
    [
        *[("Q", None, 0), ("Q", -1, 0), ("Q", 1, 1), ("H", 2, 2), ("W", 1, 1)],
        *[("R", -1, 0), ("R", 1, 0), ("R", 3, 2), ("S", 2, 1), ("E", 2, 1)],
    ],
)
def test_all_runs_but_one_are_restarts(letter: str, runs: int | None, restarts: int) -> None:
    assert state(job_state=letter, substate=10, run_count=runs).restarts == restarts


def test_a_job_whose_nodes_are_prepared_is_in_its_run_already() -> None:
    assert state(job_state="R", substate=71, run_count=3).restarts == 2


def test_a_job_that_waits_has_no_node_whatever_its_last_run_had() -> None:
    found = state(job_state="Q", substate=10, run_count=1, comment="Job was preempted and requeued")
    assert (found.host, found.former_end) == ("", "preempted")
    for other in ("Not Running", "User has reached queue preemptable running job limit."):
        assert state(job_state="Q", substate=10, run_count=1, comment=other).former_end is None
    waits = "Not Running: it would be preempted at once"
    assert state(job_state="Q", substate=10, run_count=None, comment=waits).former_end is None, "it has not run yet"


def test_a_comment_of_several_lines_is_one() -> None:
    assert state(job_state="Q", substate=10, comment="Not\n Running:\t busy ").cause == "PBS says: Not Running: busy"


@pytest.mark.parametrize(
    ("estimated", "in_s"),
    [
        ({"start_time": 1795221415 + 90}, 90.0),
        ({"start_time": str(1795221415 + 90), "exec_vnode": "(n:ncpus=1)"}, 90.0),
        ({"start_time": 1795221415 - 1}, None),
        ({"start_time": "soon"}, None),
        ({}, None),
        ("soon", None),
        (None, None),
    ],
)
def test_a_guess_counts_from_the_time_of_the_answer(estimated: object, in_s: float | None) -> None:
    assert state(job_state="Q", substate=10, estimated=estimated).starts_in_s == in_s


def test_a_guess_may_be_a_date_and_a_job_that_is_held_has_none() -> None:
    date = "Wed Nov 25 12:00:00 2026"
    told = state(job_state="Q", substate=10, estimated={"start_time": date}).starts_in_s
    later = state(job_state="Q", substate=10, estimated={"start_time": date.replace("12:00", "12:05")}).starts_in_s
    assert told is not None
    assert later == told + 300.0
    assert state(job_state="H", substate=20, estimated={"start_time": date}).starts_in_s is None


@pytest.mark.parametrize(
    ("exec_host", "exec_vnode", "hosts"),
    [
        ("pbs/0+pbs/1", "", ("pbs",)),
        ("pbs/0*2+pbs/1*2", "(pbs[0]:ncpus=2)+(pbs[1]:ncpus=2)", ("pbs",)),
        ("node1/0*4+node2/0*4", "", ("node1", "node2")),
        ("x3004c0s7b0n0/0*64+x3004c0s13b0n0/0*64", "", ("x3004c0s7b0n0", "x3004c0s13b0n0")),
        ("", "(node1:ncpus=4)+(node2[0]:ncpus=2:mem=1gb+node2[1]:ncpus=2)", ("node1", "node2")),
        ("", "", ()),
    ],
)
def test_nodes_are_told_in_their_order_each_once(exec_host: str, exec_vnode: str, hosts: tuple[str, ...]) -> None:
    assert hosts_of(exec_host, exec_vnode) == hosts


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2.pbs", "2.pbs", True),
        ("2", "2.pbs", True),
        ("2.pbs.example.org", "2.pbs", True),
        ("2.pbs", "3.pbs", False),
        ("2.pbs", "2.other", False),
        ("2.pbs", "22.pbs", False),
        ("2.pbs", "2[].pbs", False),
        ("2[1].pbs", "2[1]", True),
        ("2[1].pbs", "2[].pbs", False),
        ("", "", False),
        ("two", "two", False),
    ],
)
def test_ids_name_one_job_with_or_without_the_server(*, one: str, other: str, same: bool) -> None:
    assert same_job(one, other) is same
    assert same_job(other, one) is same


def test_an_id_has_a_number_and_a_server() -> None:
    assert id_parts("7[].pbs.example.org") == ("7[]", "pbs.example.org")
    assert id_parts("hpcserve") == ("", "")


# --- PBS's JSON.


def only(stdout: str) -> PbsJob:
    (told,) = parse_jobs(stdout.encode())
    return told


@pytest.mark.parametrize("name", ["1", "1e5", "-0", "1234567890123456789012", "NaN", "Infinity", "true"])
def test_a_name_that_looks_like_a_number_is_the_name_as_it_is(name: str) -> None:
    whole = answer({"1.pbs": job(Job_Name="NAME")}).replace('"NAME"', name)
    if name == "true":
        assert only(whole).problem  # PBS writes no words bare
    else:
        assert only(whole).name == name


@pytest.mark.parametrize("bare", ["005", "0x10", "inf", "1e", "+1", ".5", "nan", "1,000"])
def test_a_bare_variable_that_is_no_json_hides_no_job(bare: str) -> None:
    whole = answer(
        {"1.pbs": job(Variable_List={"A": 1, "B": "BARE", "C": "x"}), "2.pbs": job(job_state="Q", substate=10)}
    )
    found = parse_jobs(whole.replace('"BARE"', bare).encode())
    assert [(each.job, each.state) for each in found] == [("1.pbs", "R"), ("2.pbs", "Q")]


@pytest.mark.parametrize("raw", ["\x1b[0m", "tab\there", "two\nlines", r"ab\,c", r"it\'s", r"C:\users", r"\x41"])
def test_a_variable_with_control_characters_or_odd_backslashes_hides_no_job(raw: str) -> None:
    whole = answer({"1.pbs": job(Variable_List={"A": "RAW", "B": "x"})})
    assert state_of(only(whole.replace("RAW", raw))).phase == "running"


def test_jobs_that_each_come_with_a_jobs_of_their_own_are_all_read() -> None:
    one, two = (json.dumps({name: job()})[1:-1] for name in ("1.pbs", "2.pbs"))
    found = parse_jobs(f'{{"timestamp": 1, "Jobs": {{{one}}}, "Jobs": {{{two}}}}}'.encode())
    assert [each.job for each in found] == ["1.pbs", "2.pbs"]


def test_a_key_that_comes_twice_with_two_values_has_none() -> None:
    twice = answer({"1.pbs": job()}).replace('"job_state": "R"', '"job_state": "R", "job_state": "Q"')
    assert (state_of(only(twice)).phase, only(twice).name) == ("unknown", job()["Job_Name"])
    same = answer({"1.pbs": job()}).replace('"job_state": "R"', '"job_state": "R", "job_state": "R"')
    assert state_of(only(same)).phase == "running"


@pytest.mark.parametrize("stdout", ["", "[]", "3", "{}", '{"Jobs": {}}', '{"timestamp": 1, "Jobs": []}', "[" * 100_000])
def test_what_is_no_answer_of_pbs_is_an_error(stdout: str) -> None:
    with pytest.raises(SchedulerError, match="run it by hand"):
        parse_jobs(stdout.encode())


def test_an_answer_without_jobs_has_none() -> None:
    assert parse_jobs(answer({}).encode()) == []
    assert pbs_json.decoded("qstat", answer({}).encode())["pbs_server"] == "pbs"


@pytest.mark.parametrize(
    ("others", "its_own"),
    [
        ("", "{}\n"),
        ("", "  {}\n"),
        ("", "\t{}\n"),
        ("Down on Monday\n\n", "{\n"),
        ("Down on Monday\n", " \t{\n}\n{\n"),
        ("Down} on {Monday}\n", "{\n"),
        ("Down on {date}, and on {", ""),
        ("1.pbs {\n", ""),
        ("", ""),
    ],
)
def test_an_answer_begins_with_the_first_line_that_begins_with_a_brace(others: str, its_own: str) -> None:
    assert pbs_json.parted((others + its_own).encode()) == (others.encode(), its_own.encode())
