"""PBS's commands on bad days: what is concluded from what they say, and from what they do not say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hpcserve.cluster.job_watch import GONE_AFTER, GONE_AFTER_S
from hpcserve.cluster.pbs import GONE_WITHOUT_HISTORY_S, PbsScheduler
from hpcserve.cluster.seam import Answered, JobId, JobState
from hpcserve.errors import JobRefused, NoRoom, SchedulerError, SubmissionUnknown
from tests.unit.cluster.pbs_stage import DOWN, QSTAT, TAG, FakePbs, answer, job, pilot_job, polled

UNKNOWN = "qstat: Unknown Job Id {}\n"
NO_HISTORY = "qstat: PBS is not configured to maintain job history 1.pbs\n"
EMPTY = answer({})
OF_THE_SITE = "qsub: in words of the site's own\n"


@pytest.fixture
def fake(tmp_path: Path) -> FakePbs:
    return FakePbs(tmp_path)


async def fails(call: Awaitable[object]) -> SchedulerError:
    with pytest.raises(SchedulerError) as caught:
        await call
    return caught.value


def said_of_missing(scheduler: PbsScheduler, fake: FakePbs, *, over_s: float = GONE_AFTER_S) -> str:
    """What is said in the end of job 1, which every answer lacks."""
    for _ in range(GONE_AFTER):
        assert polled(scheduler, "1.pbs")["1.pbs"].phase == "unknown"
        fake.now_s += over_s / GONE_AFTER
    state = polled(scheduler, "1.pbs")["1.pbs"]
    assert (state.phase, state.end, state.exit_code) == ("ended", "?", None)
    return state.cause


# --- Jobs that an answer lacks.


def test_of_several_jobs_one_question_is_asked(fake: FakePbs) -> None:
    fake.has({"1.pbs": job(), "2.pbs": job(job_state="Q", substate=10, estimated={"start_time": 1795221500})})
    states = polled(fake.scheduler(), "2.pbs", "1.pbs")
    assert {name: state.phase for name, state in states.items()} == {"1.pbs": "running", "2.pbs": "queued"}
    assert fake.asked == [f"{QSTAT} 1.pbs 2.pbs"]


def test_a_release_that_prints_the_first_job_alone_is_asked_about_each(fake: FakePbs) -> None:
    fake.has({"1.pbs": job()}, ids=["1.pbs", "2.pbs", "3.pbs"])
    for name in ("1.pbs", "2.pbs"):
        fake.has({name: job()})
    fake.says(f"{QSTAT} 3.pbs", EMPTY, err=UNKNOWN.format("3.pbs"), code=153)
    scheduler = fake.scheduler()
    for asked in (3, 6):
        states = polled(scheduler, "1.pbs", "2.pbs", "3.pbs")
        assert {name: state.phase for name, state in states.items()} == {
            "1.pbs": "running", "2.pbs": "running", "3.pbs": "unknown",
        }  # fmt: skip
        assert len(fake.asked) == asked
        assert fake.asked.count(f"{QSTAT} 1.pbs 2.pbs 3.pbs") == 1, "a common question is work for the server, too"


def test_a_release_that_answers_of_no_job_is_not_taken_for_one_that_prints_the_first_alone(fake: FakePbs) -> None:
    fake.says("qstat", EMPTY)
    scheduler = fake.scheduler()
    for _ in range(2):
        polled(scheduler, "1.pbs", "2.pbs")
    assert fake.asked.count(f"{QSTAT} 1.pbs 2.pbs") == 2


def test_of_very_many_jobs_a_hundred_are_asked_about_at_a_time(fake: FakePbs) -> None:
    jobs = {f"{number}.pbs": job() for number in range(1001, 1151)}
    fake.says("qstat", answer(jobs))
    assert {state.phase for state in polled(fake.scheduler(), *jobs).values()} == {"running"}
    assert [line.count(".pbs") for line in fake.asked] == [100, 50]


def test_one_bad_id_in_a_list_harms_no_other_job(fake: FakePbs) -> None:
    words = f"{QSTAT} 1.pbs 2.pbs 9.pbs"
    fake.says(words, answer({"1.pbs": job(), "2.pbs": job()}), err=UNKNOWN.format("9.pbs"), code=153)
    states = polled(fake.scheduler(), "1.pbs", "2.pbs", "9.pbs")
    assert {name: state.phase for name, state in states.items()} == {
        "1.pbs": "running", "2.pbs": "running", "9.pbs": "unknown",
    }  # fmt: skip
    assert fake.asked == [words]


def test_a_job_deleted_with_its_history_is_over_and_nobody_knows_how(fake: FakePbs) -> None:
    fake.has({"1.pbs": job(run_count=2)})
    scheduler = fake.scheduler()
    assert polled(scheduler, "1.pbs")["1.pbs"].host == "node1"
    fake.says(f"{QSTAT} 1.pbs", EMPTY, err=UNKNOWN.format("1.pbs"), code=153)
    assert "does not know it any more" in said_of_missing(scheduler, fake)
    state = polled(scheduler, "1.pbs")["1.pbs"]
    assert (state.host, state.restarts) == ("node1", 1)


def test_a_job_that_comes_back_was_never_gone(fake: FakePbs) -> None:
    scheduler = fake.scheduler()
    for _ in range(3):
        fake.says(f"{QSTAT} 1.pbs", EMPTY, err=UNKNOWN.format("1.pbs"), code=153)
        for _ in range(GONE_AFTER - 1):
            assert polled(scheduler, "1.pbs")["1.pbs"].phase == "unknown"
            fake.now_s += 10 * GONE_AFTER_S
        fake.has({"1.pbs": job()})
        assert polled(scheduler, "1.pbs")["1.pbs"].phase == "running"


def test_without_history_a_job_runs_and_then_is_over_but_no_success(fake: FakePbs) -> None:
    """23.06 says nothing at all of any job to qstat -x then, with exit code 0."""
    for nothing in (EMPTY, ""):
        fake.says(f"{QSTAT} 1.pbs", nothing, err=NO_HISTORY)
        fake.says("qstat -f -F json 1.pbs", answer({"1.pbs": job()}))
        scheduler = fake.scheduler()
        assert polled(scheduler, "1.pbs")["1.pbs"].phase == "running"
        asked = len(fake.asked)
        assert polled(scheduler, "1.pbs")["1.pbs"].phase == "running"
        assert fake.asked[asked:] == ["qstat -f -F json 1.pbs"]
        fake.says("qstat -f -F json 1.pbs", EMPTY, err=UNKNOWN.format("1.pbs"), code=153)
        assert "keeps no history" in said_of_missing(scheduler, fake, over_s=GONE_WITHOUT_HISTORY_S)


def test_without_history_several_answers_of_one_moment_end_no_job(fake: FakePbs) -> None:
    fake.says(f"{QSTAT} 1.pbs", EMPTY, err=NO_HISTORY)
    fake.says("qstat -f -F json 1.pbs", EMPTY, err=UNKNOWN.format("1.pbs"), code=153)
    scheduler = fake.scheduler()
    for _ in range(2 * GONE_AFTER):
        assert polled(scheduler, "1.pbs")["1.pbs"].phase == "unknown"


def test_history_that_is_switched_on_later_is_used(fake: FakePbs) -> None:
    fake.says(f"{QSTAT} 1.pbs", EMPTY, err=NO_HISTORY)
    fake.says("qstat -f -F json 1.pbs", answer({"1.pbs": job()}))
    scheduler = fake.scheduler()
    assert polled(scheduler, "1.pbs")["1.pbs"].phase == "running"
    finished = "qstat: 1.pbs Job has finished, use -x or -H to obtain historical job information\n"
    fake.says("qstat -f -F json 1.pbs", EMPTY, err=finished, code=35)
    fake.has({"1.pbs": job(job_state="F", substate=92, Exit_status=0)})
    assert polled(scheduler, "1.pbs")["1.pbs"].end == "completed"


def test_a_job_that_has_finished_and_whose_history_is_kept_from_us_is_over(fake: FakePbs) -> None:
    fake.says(f"{QSTAT} 1.pbs", EMPTY, err=NO_HISTORY)
    finished = "qstat: 1.pbs Job has finished, use -x or -H to obtain historical job information\n"
    fake.says("qstat -f -F json 1.pbs", EMPTY, err=finished, code=35)
    assert "keeps no history" in said_of_missing(fake.scheduler(), fake, over_s=GONE_WITHOUT_HISTORY_S)


def test_a_job_that_pbs_cannot_begin_and_holds_is_deleted_and_replaced(fake: FakePbs) -> None:
    held = job(job_state="H", substate=20, Hold_Types="s", comment="job held, too many failed attempts to run")
    fake.has({"1.pbs": held, "2.pbs": job()})
    fake.says("qdel", err=DOWN, code=162)
    scheduler = fake.scheduler()
    waits = polled(scheduler, "1.pbs", "2.pbs")["1.pbs"]
    assert (waits.phase, "it is to be deleted: " in waits.cause) == ("queued", True)
    fake.says("qdel")
    fake.now_s += 60.0
    states = polled(scheduler, "1.pbs", "2.pbs")
    assert (states["1.pbs"].phase, states["1.pbs"].end) == ("ended", "never started")
    assert "PBS could not begin it on its nodes, and has given up" in states["1.pbs"].cause
    assert "too many failed attempts to run" in states["1.pbs"].cause
    assert "hpcserve has deleted job 1.pbs" in states["1.pbs"].cause
    assert states["2.pbs"].phase == "running"


# --- Jobs of which nothing that can be used is said.


def in_doubt(fake: FakePbs, scheduler: PbsScheduler, *, answers: int) -> JobState:
    """What is said in the end of job 1, which is unknown before; of job 2 all is known."""
    for _ in range(answers):
        states = polled(scheduler, "1.pbs", "2.pbs")
        assert (states["1.pbs"].phase, states["2.pbs"].phase) == ("unknown", "running")
        fake.now_s += GONE_AFTER_S / GONE_AFTER
    states = polled(scheduler, "1.pbs", "2.pbs")
    assert states["2.pbs"].phase == "running"
    return states["1.pbs"]


@pytest.mark.parametrize(
    ("said", "err"),
    [
        (answer({"1.pbs": job(job_state="M", substate=94), "2.pbs": job()}), ""),
        (answer({"1.pbs": job(job_state="Y"), "2.pbs": job()}), ""),
        (answer({"2.pbs": job()}), "qstat: something new\n"),
    ],
)
def test_a_job_in_doubt_for_a_minute_is_deleted_and_holds_up_nobody(said: str, err: str, fake: FakePbs) -> None:
    fake.says("qstat", said, err=err, code=1 if err else 0)
    fake.has({"2.pbs": job()})
    scheduler = fake.scheduler()
    state = in_doubt(fake, scheduler, answers=GONE_AFTER)
    assert (state.phase, state.end, state.exit_code) == ("ended", "?", None)
    assert "hpcserve has deleted job 1.pbs, since PBS said nothing of it that can be used" in state.cause
    assert polled(scheduler, "1.pbs", "2.pbs")["1.pbs"].phase == "ended"
    assert fake.asked.count("qdel 1.pbs") == 1


def test_where_a_job_in_doubt_ran_is_told_and_it_is_deleted_once(fake: FakePbs) -> None:
    fake.has({"1.pbs": job(run_count=3), "2.pbs": job()})
    scheduler = fake.scheduler()
    polled(scheduler, "1.pbs", "2.pbs")
    fake.says("qstat", answer({"2.pbs": job()}), err="qstat: something new\n", code=1)
    fake.says(f"{QSTAT} 1.pbs 2.pbs", answer({"2.pbs": job()}), err="qstat: something new\n", code=1)
    fake.has({"2.pbs": job()})
    state = in_doubt(fake, scheduler, answers=GONE_AFTER)
    assert (state.end, state.host, state.restarts) == ("?", "node1", 2)
    with pytest.raises(SchedulerError):
        polled(scheduler, "1.pbs")
    scheduler.retry_now()
    assert polled(scheduler, "1.pbs", "2.pbs")["1.pbs"].phase == "ended", "that the server was away changes nothing"
    assert fake.asked.count("qdel 1.pbs") == 1


def test_several_doubtful_answers_of_one_moment_delete_no_job(fake: FakePbs) -> None:
    fake.has({"1.pbs": job(job_state="Y")})
    scheduler = fake.scheduler()
    for _ in range(3 * GONE_AFTER):
        assert polled(scheduler, "1.pbs")["1.pbs"].phase == "unknown"
        fake.now_s += GONE_AFTER_S / (4 * GONE_AFTER)
    assert "qdel 1.pbs" not in fake.asked


def test_a_job_that_cannot_be_deleted_is_given_up_all_the_same(fake: FakePbs) -> None:
    fake.has({"1.pbs": job(job_state="M", substate=94), "2.pbs": job()})
    fake.says("qdel", err="qdel: Unauthorized Request  1.pbs\n", code=159)
    scheduler = fake.scheduler()
    state = in_doubt(fake, scheduler, answers=2 * GONE_AFTER)
    assert (state.end, "is given up, though it could not be deleted" in state.cause) == ("?", True)
    assert fake.asked.count("qdel 1.pbs") == GONE_AFTER


def test_doubts_that_pass_and_a_server_that_is_away_end_nothing(fake: FakePbs) -> None:
    scheduler = fake.scheduler()
    for _ in range(3):
        fake.has({"1.pbs": job(job_state="M", substate=94), "2.pbs": job()})
        for _ in range(GONE_AFTER):
            assert polled(scheduler, "1.pbs", "2.pbs")["1.pbs"].phase == "unknown"
            fake.now_s += 10 * GONE_AFTER_S / GONE_AFTER
        fake.has({"1.pbs": job(), "2.pbs": job()})
        assert polled(scheduler, "1.pbs", "2.pbs")["1.pbs"].phase == "running"
    for _ in range(2):
        fake.has({"1.pbs": job(job_state="M", substate=94), "2.pbs": job()})
        assert in_doubt(fake, scheduler, answers=GONE_AFTER - 1).phase == "unknown"
        fake.says(f"{QSTAT} 1.pbs 2.pbs", "", err=DOWN, code=255)
        with pytest.raises(SchedulerError):
            polled(scheduler, "1.pbs", "2.pbs")
        fake.now_s += 10 * GONE_AFTER_S
    assert "qdel 1.pbs" not in fake.asked


def test_an_answer_about_another_job_is_none_about_this_one(fake: FakePbs) -> None:
    fake.says("qstat", answer({"2.pbs": job()}))
    with pytest.raises(SchedulerError, match="nothing of job"):
        polled(fake.scheduler(), "1.pbs")


def test_a_number_that_another_user_got_is_not_our_job(fake: FakePbs) -> None:
    fake.has({"1.pbs": job(Job_Name="other", Job_Owner="you@login1", job_state="F", substate=92, Exit_status=0)})
    assert "another's" in said_of_missing(fake.scheduler(), fake)


@pytest.mark.parametrize(
    ("theirs", "before"),
    [
        ({"Job_Name": "simulation"}, False),
        ({"Job_Owner": "you@login1"}, False),
        ({"Job_Name": f"hpcserve-{TAG}-2"}, True),
    ],
)
def test_another_job_under_our_number_is_none_of_ours_and_is_not_deleted(
    theirs: dict[str, object], *, before: bool, fake: FakePbs
) -> None:
    scheduler = fake.scheduler()
    if before:
        fake.has({"1.pbs": job()})
        assert polled(scheduler, "1.pbs")["1.pbs"].phase == "running"
    fake.has({"1.pbs": job(**theirs)})
    assert "another's" in said_of_missing(scheduler, fake)
    asyncio.run(scheduler.cancel(JobId("1.pbs")))
    assert "qdel 1.pbs" not in fake.asked


def test_ids_are_found_with_and_without_the_servers_name(fake: FakePbs) -> None:
    fake.says("qstat", answer({"1.pbs.example.org": job(), "1002.pbs": job(job_state="Q", substate=10)}))
    fake.says("qstat -T 1002")
    states = polled(fake.scheduler(), "1.pbs", "1002")  # PBS's numbers may jump, as after it was killed
    assert {name: state.phase for name, state in states.items()} == {"1.pbs": "running", "1002": "queued"}


# --- Answers that are none.


def test_one_unreadable_job_harms_no_other(fake: FakePbs) -> None:
    broken = answer({"1.pbs": job(Variable_List={"F": "HERE"}), "2.pbs": job()}).replace("HERE", '() { echo "x" }')
    fake.says(f"{QSTAT} 1.pbs 2.pbs", broken)
    fake.says(f"{QSTAT} 1.pbs", spoilt())
    fake.has({"2.pbs": job()})
    states = polled(fake.scheduler(), "1.pbs", "2.pbs")
    assert {name: state.phase for name, state in states.items()} == {"1.pbs": "running", "2.pbs": "running"}


def spoilt(**fields: object) -> str:
    """The answer about job 1 with a variable that older releases do not escape."""
    said = answer({"1.pbs": job(Variable_List={"PBS_O_HOME": "/home/me", "F": "HERE"}, Priority=0, **fields)})
    return said.replace("HERE", '() { echo "x"\n\techo y }')


def test_of_an_answer_that_a_variable_has_spoilt_all_else_is_read(fake: FakePbs) -> None:
    scheduler = fake.scheduler()
    fake.says(f"{QSTAT} 1.pbs", spoilt(run_count=3))
    state = polled(scheduler, "1.pbs")["1.pbs"]
    assert (state.phase, state.host, state.restarts) == ("running", "node1", 2)
    fake.says(f"{QSTAT} 1.pbs", spoilt(job_state="F", substate=93, Exit_status=7, comment='he said "no"'))
    state = polled(scheduler, "1.pbs")["1.pbs"]
    assert (state.phase, state.end, state.exit_code) == ("ended", "failed", 7)
    fake.says(f"{QSTAT} 1.pbs", spoilt(job_state="F", substate=92, Exit_status=0).replace('"Exit_status": 0', '"E'))
    assert polled(scheduler, "1.pbs")["1.pbs"].end not in {None, "completed"}, "nobody has seen that it is a success"


UNREADABLE = spoilt().replace("Job_Name", 'Job"Name')


def test_one_job_that_nobody_can_read_is_deleted_after_a_minute_and_no_silence(fake: FakePbs) -> None:
    fake.says("qstat", UNREADABLE)
    scheduler = fake.scheduler()
    for _ in range(GONE_AFTER):
        state = polled(scheduler, "1.pbs")["1.pbs"]
        assert (state.phase, "cannot read the answer of qstat" in state.cause) == ("unknown", True)
        fake.now_s += GONE_AFTER_S / GONE_AFTER
    assert polled(scheduler, "1.pbs")["1.pbs"].end == "?"
    assert fake.asked.count("qdel 1.pbs") == 1


def test_a_question_without_an_answer_says_nothing_of_jobs_that_it_was_not_about(fake: FakePbs) -> None:
    fake.has({"1.pbs": job(job_state="Y"), "2.pbs": job()})
    fake.says(f"{QSTAT} 2.pbs", answer({"2.pbs": job()})[:-200])
    scheduler = fake.scheduler()
    for _ in range(GONE_AFTER):
        assert polled(scheduler, "1.pbs", "2.pbs")["1.pbs"].phase == "unknown"
        fake.now_s += GONE_AFTER_S / GONE_AFTER
        with pytest.raises(SchedulerError, match="cannot read"):
            polled(scheduler, "2.pbs")
        scheduler.retry_now()
    assert polled(scheduler, "1.pbs", "2.pbs")["1.pbs"].phase == "ended"


@pytest.mark.parametrize(
    ("out", "err", "code", "says"),
    [
        ("", DOWN, 255, "does not reach the PBS server: Connection refused"),
        ("", "qstat: Unauthorized Request \n", 159, "Unauthorized"),
        ("", "usage: qstat [-f] ...\n", 2, "usage"),
        ("", "", 0, "nothing of job"),
        ("some site's greeting\n", "", 0, "cannot read"),
        ("some site's greeting\n", DOWN, 255, "does not reach the PBS server"),
        (answer({"1.pbs": job()})[:-200], "", 0, "cannot read"),
        (EMPTY, DOWN, 255, "does not reach the PBS server"),
        (EMPTY, "", 1, "exit code 1"),
    ],
)
def test_what_is_no_answer_is_an_error_and_asked_for_again_later(
    *, out: str, err: str, code: int, says: str, fake: FakePbs
) -> None:
    fake.says("qstat", out, err=err, code=code)
    scheduler = fake.scheduler()

    async def play() -> None:
        for _ in range(5):
            assert says in (await fails(scheduler.poll([JobId("1.pbs")]))).message
            assert "asked again at" in (await fails(scheduler.submit(pilot_job(fake.directory)))).message
        assert len(fake.asked) == 1
        fake.has({"1.pbs": job()})
        fake.now_s += 60.0
        assert (await scheduler.poll([JobId("1.pbs")]))[JobId("1.pbs")].phase == "running"

    asyncio.run(play())


def test_a_server_that_is_away_is_asked_once_about_all_jobs(fake: FakePbs) -> None:
    fake.says("qstat", "", err=DOWN, code=255)
    with pytest.raises(SchedulerError, match="does not reach the PBS server"):
        polled(fake.scheduler(), "1.pbs", "2.pbs", "3.pbs")
    assert len(fake.asked) == 1


def test_where_no_jobs_are_taken_those_that_there_are_are_heard_of(fake: FakePbs) -> None:
    fake.has({"1.pbs": job()})
    fake.says("qsub", err="qsub: System error: \n", code=162)
    scheduler = fake.scheduler()
    for _ in range(2):
        asyncio.run(fails(scheduler.submit(pilot_job(fake.directory))))
    assert polled(scheduler, "1.pbs")["1.pbs"].phase == "running"
    assert [line.split()[0] for line in fake.asked] == ["qsub", "qstat"]


def test_a_server_that_hangs_is_given_up_and_left_alone_until_somebody_waits(fake: FakePbs) -> None:
    fake.says("qstat", EMPTY, does="sleep 600")
    scheduler = fake.scheduler(timeout_s=0.5)

    async def play() -> None:
        assert "did not answer within" in (await fails(scheduler.poll([JobId("1.pbs")]))).message
        await fails(scheduler.poll([JobId("1.pbs")]))
        assert len(fake.asked) == 1
        scheduler.retry_now()
        await fails(scheduler.poll([JobId("1.pbs")]))
        assert len(fake.asked) == 2

    asyncio.run(play())


# --- Submissions.


@pytest.mark.parametrize(
    ("err", "code", "error", "says"),
    [
        ("qsub: Unknown queue\n", 170, JobRefused, "pilots.partition"),
        ("qsub: Unknown resource: nosuchres\n", 187, JobRefused, "pilots.directives"),
        ("qsub: Illegal attribute or resource value Resource_List.walltime\n", 166, JobRefused, "pilots.walltime_s"),
        ("qsub: Unauthorized Request \n", 159, JobRefused, "ask the site"),
        ("qsub: Job violates queue and/or server resource limits\n", 188, JobRefused, "pilots.nodes"),
        ("qsub: Invalid Account\n", 201, JobRefused, "pilots.account"),
        ("qsub: hook error: please add -l filesystems=\n", 32, JobRefused, "filesystems"),
        ("qsub: would exceed queue generic's per-user limit of jobs in 'Q' state\n", 38, NoRoom, "when there is room"),
        ("qsub: Maximum number of jobs already in queue\n", 198, NoRoom, "when there is room"),
        ("qsub: Queue is not enabled\n", 173, NoRoom, "when there is room"),
        ("qsub: limit on number of jobs\n", 1, NoRoom, "when there is room"),  # a hook's, in PBS's words
        (OF_THE_SITE, 38, NoRoom, "when there is room"),
        (OF_THE_SITE, 186, SchedulerError, "at present"),
        (OF_THE_SITE, 56, SchedulerError, "at present"),
        (OF_THE_SITE, 183, SubmissionUnknown, "may have taken"),
        (DOWN.replace("qstat", "qsub"), 162, SchedulerError, "at present"),
        ("qsub: cannot connect to server pbs (errno=111)\n", 1, SchedulerError, "at present"),
        ("qsub: System error: \n", 162, SchedulerError, "at present"),
        ("qsub: Request not allowed: Server shutting down\n", 212, SchedulerError, "at present"),
        ("qsub: Connection reset by peer\n", 1, SubmissionUnknown, "may have taken"),
        ("qsub: Batch protocol error\n", 183, SubmissionUnknown, "may have taken"),
        ("", 1, SubmissionUnknown, "without a word"),
    ],
)
def test_a_submission_that_fails_says_whether_it_may_be_tried_again(
    *, err: str, code: int, error: type[SchedulerError], says: str, fake: FakePbs
) -> None:
    fake.says("qsub", err=err, code=code)
    told = asyncio.run(fails(fake.commands().submit("#!/bin/sh\n")))
    assert type(told) is error
    assert says in told.message


@pytest.mark.parametrize(("out", "code"), [("", 0), ("12.pbs\n", 1), ("thanks\n", 0), ("1.pbs\n2.pbs\n", 0)])
def test_a_submission_without_one_id_may_have_been_taken(out: str, code: int, fake: FakePbs) -> None:
    fake.says("qsub", out, code=code)
    assert isinstance(asyncio.run(fails(fake.commands().submit("#!/bin/sh\n"))), SubmissionUnknown)


def test_a_submission_that_is_not_answered_may_have_been_taken(fake: FakePbs) -> None:
    fake.says("qsub", "1.pbs\n", does="sleep 600")
    error = asyncio.run(fails(fake.scheduler(timeout_s=0.5).submit(pilot_job(fake.directory))))
    assert isinstance(error, SubmissionUnknown)


@pytest.mark.parametrize("line", ["12.pbs", "12", "12.pbs.example.org", "welcome\n12.pbs\nbye"])
def test_a_submission_gives_the_id_that_pbs_prints(line: str, fake: FakePbs) -> None:
    fake.says("qsub", f"{line}\n")
    fake.says(f"{QSTAT} 12", answer({"12.pbs": job()}))
    fake.says("qselect", "12.pbs\n")
    fake.has({"12.pbs": job()})
    scheduler = fake.scheduler()
    name = asyncio.run(scheduler.submit(pilot_job(fake.directory)))
    assert name == line.replace("welcome\n", "").replace("\nbye", "") or (line, name) == ("12", "12.pbs")
    if "example" not in line:
        assert found(scheduler) == {name: "1"}, "it is told by one id, or the next controller would delete it"
    assert f"#PBS -N hpcserve-{TAG}-1\n" in (fake.directory / "script").read_text()


@pytest.mark.parametrize(("out", "err", "code"), [("", DOWN, 255), (EMPTY, UNKNOWN.format("12"), 153)])
def test_a_number_alone_of_which_nothing_is_told_may_have_been_taken(
    out: str, err: str, code: int, fake: FakePbs
) -> None:
    fake.says("qsub", "12\n")
    fake.says("qstat", out, err=err, code=code)
    error = asyncio.run(fails(fake.commands().submit("#!/bin/sh\n")))
    assert isinstance(error, SubmissionUnknown)
    assert "qsub printed 12, an id without the server's name" in error.message


@pytest.mark.parametrize(
    ("code", "says"),
    [(0, "and was deleted"), (162, "which could not be deleted"), (159, "run `qdel '12[].pbs'` yourself")],
)
def test_a_pilot_that_became_an_array_is_never_submitted_again(code: int, says: str, fake: FakePbs) -> None:
    fake.says("qsub", "12[].pbs\n")
    fake.says("qdel", err=DOWN if code else "", code=code)
    told = asyncio.run(fails(fake.commands().submit("#!/bin/sh\n")))
    assert isinstance(told, JobRefused)
    assert says in told.message
    assert fake.asked[-1] == "qdel 12[].pbs"


# --- Deletions.


@pytest.mark.parametrize("code", [0, 153, 35, 168, 202, 237])
def test_there_may_be_nothing_to_delete(code: int, fake: FakePbs) -> None:
    fake.says("qdel", err="qdel: it is over 1.pbs\n" if code else "", code=code)
    asyncio.run(fake.scheduler().cancel(JobId("1.pbs")))


@pytest.mark.parametrize(("code", "err"), [(162, DOWN), (159, "qdel: Unauthorized Request  1.pbs\n"), (1, "")])
def test_a_deletion_that_was_not_heard_is_an_error(code: int, err: str, fake: FakePbs) -> None:
    fake.says("qdel", err=err, code=code)
    asyncio.run(fails(fake.scheduler().cancel(JobId("1.pbs"))))


NO_MOM = "qdel: Server could not connect to MOM 1.pbs\n"


@pytest.mark.parametrize(
    ("err", "code", "says"),
    [
        (NO_MOM, 222, "does not reach the job's node.*qdel -W force"),
        (NO_MOM, 211, "does not reach the job's node"),
        ("qdel: it is not reached 1.pbs\n", 222, "does not reach the job's node"),
        ("qdel: Unauthorized Request  1.pbs\n", 159, "PBS does not end the job: Unauthorized"),
        ("qdel: a hook of the site: not now\n", 1, "PBS does not end the job: a hook"),
    ],
)
def test_that_one_job_cannot_be_deleted_is_an_answer_and_the_others_are(
    err: str, code: int, says: str, fake: FakePbs
) -> None:
    fake.says("qdel 1.pbs", err=err, code=code)
    fake.has({"1.pbs": job(), "2.pbs": job()})
    scheduler = fake.scheduler()
    error = asyncio.run(fails(scheduler.cancel(JobId("1.pbs"))))
    assert isinstance(error, Answered)
    assert re.search(says, error.message)
    asyncio.run(scheduler.cancel(JobId("2.pbs")))
    assert polled(scheduler, "1.pbs", "2.pbs")["1.pbs"].phase == "running"


@pytest.mark.parametrize(("err", "code"), [(DOWN, 162), ("qdel: Batch protocol error\n", 183), ("", 1)])
def test_where_deletions_are_not_heard_one_is_tried_and_all_else_is_asked(err: str, code: int, fake: FakePbs) -> None:
    fake.says("qdel", err=err, code=code)
    fake.says("qsub", "3.pbs\n")
    fake.has({"1.pbs": job()})
    scheduler = fake.scheduler()
    assert not isinstance(asyncio.run(fails(scheduler.cancel(JobId("1.pbs")))), Answered)
    assert asyncio.run(fails(scheduler.cancel(JobId("2.pbs")))).retry_after_s
    assert polled(scheduler, "1.pbs")["1.pbs"].phase == "running"
    assert asyncio.run(scheduler.submit(pilot_job(fake.directory))) == "3.pbs"
    scheduler.retry_now()
    fake.says("qdel")
    asyncio.run(scheduler.cancel(JobId("2.pbs")))
    assert [line for line in fake.asked if line.startswith("qdel")] == ["qdel 1.pbs", "qdel 2.pbs"]


def test_while_the_server_is_away_nothing_is_deleted(fake: FakePbs) -> None:
    fake.says("qstat", err=DOWN, code=255)
    scheduler = fake.scheduler()
    asyncio.run(fails(scheduler.poll([JobId("1.pbs")])))
    assert asyncio.run(fails(scheduler.cancel(JobId("1.pbs")))).retry_after_s
    assert "qdel 1.pbs" not in fake.asked


# --- Finding jobs again.


def found(scheduler: PbsScheduler, tag: str = TAG) -> dict[str, str]:
    return {str(name): str(pilot) for name, pilot in asyncio.run(scheduler.find(tag)).items()}


def test_jobs_are_found_by_their_tag_and_others_are_asked_about_once(fake: FakePbs) -> None:
    fake.says("qselect", "3.pbs\n1.pbs\n7[].pbs\n2.pbs\n")
    jobs = {
        "1.pbs": job(Job_Name=f"hpcserve-{TAG}-p-1"),
        "2.pbs": job(Job_Name=f"hpcserve-daemon-{TAG}-0"),
        "3.pbs": job(Job_Name="STDIN"),
    }
    fake.has(jobs)
    scheduler = fake.scheduler()
    for _ in range(2):
        assert found(scheduler) == {"1.pbs": "p-1"}
    assert found(scheduler, f"daemon-{TAG}") == {"2.pbs": "0"}
    assert fake.asked == ["qselect -u me", f"{QSTAT} 1.pbs 2.pbs 3.pbs", *["qselect -u me"] * 2]
    fake.says("qselect", "4.pbs\n3.pbs\n")
    fake.has({"4.pbs": job(Job_Name=f"hpcserve-{TAG}-p-4")})
    assert found(scheduler) == {"4.pbs": "p-4"}
    fake.says("qselect", "")
    assert found(scheduler) == {}


def test_of_many_jobs_only_those_that_may_be_ours_are_asked_about(fake: FakePbs) -> None:
    """The table is that of the recorded ``qstat -T``, without its last column."""
    row = "{:15} me       workq    {:10}    --    4   8    --  00:05 Q    --\n"
    fake.says("qselect", "".join(f"{number}.pbs\n" for number in range(1, 51)))
    rows = [row.format(f"{number}.pbs", "STDIN") for number in range(3, 51)]
    fake.says("qstat -u me", "\npbs: \nJob ID          Username\n" + row.format("1.pbs", "hpcserve-*") + "".join(rows))
    fake.has({"1.pbs": job(), "2.pbs": job(Job_Name=f"hpcserve-{TAG}-2")})
    scheduler = fake.scheduler()
    for _ in range(2):
        assert found(scheduler) == {"1.pbs": "1", "2.pbs": "2"}
    assert fake.asked == ["qselect -u me", "qstat -u me", f"{QSTAT} 1.pbs 2.pbs", "qselect -u me"]


def test_where_many_jobs_are_not_listed_all_are_asked_about(fake: FakePbs) -> None:
    jobs = {f"{number}.pbs": job(Job_Name=f"hpcserve-{TAG}-{number}") for number in range(10, 30)}
    fake.says("qselect", "".join(f"{name}\n" for name in jobs))
    fake.has(jobs)
    for out, code in (("", 1), ("20.pbs me workq\n", 0)):
        fake.says("qstat -u me", out, err="qstat: no\n", code=code)
        assert len(found(fake.scheduler())) == 20


def test_a_job_of_the_users_that_nobody_can_read_does_not_hide_ours(fake: FakePbs) -> None:
    """As with ``qsub -V`` and functions of bash in older releases."""
    fake.says("qselect", "1.pbs\n2.pbs\n")
    theirs = answer({"1.pbs": job(Job_Name="theirs", Variable_List={"F": "HERE"})}).replace("HERE", '() { echo "x" }')
    fake.says("qstat", theirs)
    fake.has({"2.pbs": job()})
    assert found(fake.scheduler()) == {"2.pbs": "1"}
    fake.says("qstat", theirs.replace('"theirs"', f'"hpcserve-{TAG}-9"'))
    assert found(fake.scheduler()) == {"1.pbs": "9", "2.pbs": "1"}
    twice = answer({"1.pbs": job()}).replace('"Job_Owner"', '"Job_Name": "x",\n"Job_Owner"')
    for said, why in ((theirs[:-20], "cannot read the answer"), (twice, "job 1.pbs cannot be read: Job_Name")):
        fake.says("qstat", said)
        with pytest.raises(SchedulerError, match=why):
            found(fake.scheduler())


@pytest.mark.parametrize(
    ("out", "err", "code", "says"),
    [
        ("", DOWN, 255, "does not reach"),
        ("hello\n", "", 0, "qselect printed 'hello'"),
        ("hello\nyou\n", "", 0, "qselect printed 'hello'"),
        ("1.pbs\n2.p", "", 0, "qselect printed '2.p'"),
        ("1.pbs\nhello\n2.pbs\n", "", 0, "qselect printed 'hello'"),
        ("1.pbs\n", "", 1, "qselect failed with exit code 1"),
    ],
)
def test_nothing_is_found_out_where_qselect_does_not_answer(
    *, out: str, err: str, code: int, says: str, fake: FakePbs
) -> None:
    fake.says("qselect", out, err=err, code=code)
    with pytest.raises(SchedulerError, match=says):
        found(fake.scheduler())


@pytest.mark.parametrize(
    ("out", "err", "says"),
    [
        ("", "", "qstat tells nothing of job 1.pbs: it printed nothing, and says of no error"),
        ("", "qstat: tired\n", "qstat tells nothing of job 1.pbs: it says: qstat: tired"),
        (answer({"9.pbs": job()}), "", "qstat tells nothing of job 1.pbs: it tells of other jobs alone"),
    ],
)
def test_an_answer_without_what_was_asked_is_no_failed_command(out: str, err: str, says: str, fake: FakePbs) -> None:
    fake.says("qstat", out, err=err)
    with pytest.raises(SchedulerError, match=says):
        polled(fake.scheduler(), "1.pbs")


# --- What a site prints before answers.

BANNER = "*** Maintenance in {} days ***\n\n"


def test_what_a_site_prints_before_an_answer_is_none_of_it(fake: FakePbs) -> None:
    fake.says("qstat", BANNER.format(3) + answer({"1.pbs": job(job_state="R")}))
    assert polled(fake.scheduler(), "1.pbs")["1.pbs"].phase == "running"
    spoilt = answer({"1.pbs": job(Variable_List={"F": "HERE"})}).replace("HERE", '() { echo "x" }')
    fake.says("qstat", BANNER.format(3) + spoilt)
    assert polled(fake.scheduler(), "1.pbs")["1.pbs"].phase == "running", "that is read line by line"


def test_a_job_that_ended_unseen_is_over_also_behind_what_a_site_prints(fake: FakePbs) -> None:
    fake.says("qstat", BANNER.format(3), err=UNKNOWN.format("1.pbs"), code=153)
    assert "PBS does not know it any more" in said_of_missing(fake.scheduler(), fake)


@pytest.mark.parametrize("printed", [BANNER.format(3), BANNER.format(3) + answer({"1.pbs": job()})[:-20]])
def test_what_a_site_prints_is_no_answer_alone_nor_before_half_of_one(fake: FakePbs, printed: str) -> None:
    fake.says("qstat", printed)
    scheduler = fake.scheduler()
    for _ in range(GONE_AFTER + 2):
        with pytest.raises(SchedulerError):
            polled(scheduler, "1.pbs")
        fake.now_s += GONE_AFTER_S


@pytest.mark.parametrize("ids", ["", "1.pbs\n"])
def test_jobs_are_found_behind_what_a_site_prints(fake: FakePbs, ids: str) -> None:
    fake.says("qselect", BANNER.format(3) + ids)
    fake.says("qstat -B -f -F json", BANNER.format(2) + EMPTY)
    fake.says("qstat", BANNER.format(2) + answer({"1.pbs": job()}))
    assert found(fake.scheduler()) == ({"1.pbs": "1"} if ids else {})


@pytest.mark.parametrize("ids", ["", "1.pbs\n"])
@pytest.mark.parametrize("server", [BANNER.format(3), BANNER.format(3) + EMPTY[:-20], EMPTY, "Other\n" + EMPTY])
def test_a_listing_of_which_it_is_not_known_that_a_site_prints_it_always_is_none(
    fake: FakePbs, server: str, ids: str
) -> None:
    fake.says("qselect", BANNER.format(3) + ids)
    fake.says("qstat -B -f -F json", server)
    fake.says("qstat", answer({"1.pbs": job()}))
    with pytest.raises(SchedulerError, match=r"qselect printed '\*\*\* Maintenance"):
        found(fake.scheduler())


@pytest.mark.parametrize("printed", ["*** Maintenance in 3 days ***", BANNER.format(3) + "1.pbs\n2"])
def test_a_listing_that_is_cut_off_is_none_whatever_a_site_prints(fake: FakePbs, printed: str) -> None:
    fake.says("qselect", printed)
    fake.says("qstat -B -f -F json", BANNER.format(3) + EMPTY)
    fake.says("qstat", answer({"1.pbs": job(), "2.pbs": job()}))
    with pytest.raises(SchedulerError, match=f"qselect printed '{re.escape(printed.splitlines()[-1])}', no job's id"):
        found(fake.scheduler())


# --- Guesses.


def test_the_listing_is_asked_seldom_and_for_those_alone_that_have_no_guess(fake: FakePbs) -> None:
    waits = job(job_state="Q", substate=10, exec_host=None)
    fake.has({"1.pbs": waits})
    row = "1.pbs           me       workq    hpcserve-*    --    4   8    --  00:05 Q 23:59\n"
    fake.says("qstat -T 1.pbs", row)
    scheduler = fake.scheduler()
    first = polled(scheduler, "1.pbs")["1.pbs"].starts_in_s
    fake.now_s += 1.0
    second = polled(scheduler, "1.pbs")["1.pbs"].starts_in_s
    assert fake.asked.count("qstat -T 1.pbs") == 1
    if first is not None and first >= 1.0:  # but for the last minute of a day
        assert second == first - 1.0
    fake.says("qstat -T 1.pbs", err="qstat: no\n", code=1)
    fake.now_s += 301.0
    assert polled(scheduler, "1.pbs")["1.pbs"].starts_in_s is None
    fake.has({"1.pbs": waits | {"estimated": {"start_time": 1795221415 + 5}}})
    fake.now_s += 301.0
    assert polled(scheduler, "1.pbs")["1.pbs"].starts_in_s == 5.0
    assert fake.asked.count("qstat -T 1.pbs") == 2


def test_a_guess_that_has_passed_is_none(fake: FakePbs) -> None:
    fake.has({"1.pbs": job(job_state="Q", substate=10, exec_host=None)})
    soon = f"{datetime.now().astimezone() + timedelta(minutes=2):%H:%M}"
    fake.says("qstat -T 1.pbs", f"1.pbs           me       workq    hpcserve-*    --    4   8    --  00:05 Q {soon}\n")
    scheduler = fake.scheduler()
    first = polled(scheduler, "1.pbs")["1.pbs"].starts_in_s
    assert first is None or first > 0.0, "none just before midnight"
    fake.now_s += 200.0
    assert polled(scheduler, "1.pbs")["1.pbs"].starts_in_s is None
    assert fake.asked.count("qstat -T 1.pbs") == 1


def test_nobody_is_asked_about_no_job(fake: FakePbs) -> None:
    assert polled(fake.scheduler()) == {}
    assert fake.asked == []


def test_the_stage_answers_in_the_form_of_the_recordings() -> None:
    assert re.search(r'^\t\t"1.pbs": \{$', answer({"1.pbs": job()}), re.MULTILINE)
    assert json.loads(EMPTY).keys() == {"timestamp", "pbs_version", "pbs_server"}
