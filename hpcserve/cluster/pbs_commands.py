"""PBS by its commands: which are run, with which words, and which answer is an error.

Jobs are asked for by their ids in one qstat. Of several, qstat 23.06 prints in JSON the first one alone, with exit code
0, so a job that it is silent about is asked for by itself; once that was so, all are from then on. The server gets one
question a job in either case. A job is not there only where PBS names it as unknown or finished, or where an answer
about it alone, whole and without an error, is empty.

History that is switched off makes ``qstat -x`` fall silent about all jobs, with exit code 0 and a line of standard
error; then it is left out, until PBS says that there is history.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from hpcserve.cluster import pbs_json, pbs_refusals
from hpcserve.cluster.pbs_estimate import parse_estimates
from hpcserve.cluster.pbs_json import PbsJob, id_parts, same_job
from hpcserve.cluster.runner import Answer, Runner
from hpcserve.cluster.seam import OUR_JOBS, JobId
from hpcserve.cluster.submission import submitted
from hpcserve.errors import JobRefused, SchedulerError, SubmissionUnknown

QSTAT = ("qstat", "-f", "-F", "json")
_MOST_IDS = 100
_SHOWN_CHARACTERS = 300
_FEW = 10
"""Of more jobs than these it is first asked which may be ours."""
_LISTED = re.compile(r"(\d+)(?:\.\S*)?\s+\S+\s+\S+\s+(\S+)\s+\S+\s+\S+\s+\S+\s+\S+\s+\S+\s+[A-Z]\s")
_SUBMITTED = re.compile(r"(\d+(?:\[\d*\])?(?:\.[\w.-]+)?)")
_FINISHED = "Job has finished"
_NOT_THERE = ("Unknown Job Id", _FINISHED)
_DIGITS = re.compile(r"\d+")
_NO_HISTORY = re.compile(r"not configured to maintain job history|job_history_enable", re.IGNORECASE)
# A job that is over, is ending or was never there: nothing to delete.
_NOTHING_TO_DELETE = (
    pbs_refusals.UNKNOWN_JOB,
    pbs_refusals.BAD_STATE,
    pbs_refusals.ALREADY_EXITING,
    pbs_refusals.DELETED_ALREADY,
    pbs_refusals.HISTORY_JOB,
)


@dataclass(frozen=True, slots=True)
class Told:
    """What PBS has said of the jobs that were asked for. Each of them is in one of these.

    Attributes:
        jobs: What it knows.
        absent: Those that it says it does not know, or that have ended, it does not say how.
        silent: Those that it has said nothing about that can be relied on, and why.
        unheard: Of these, those about which there was no whole answer.
    """

    jobs: dict[JobId, PbsJob] = field(default_factory=dict)
    absent: set[JobId] = field(default_factory=set)
    silent: dict[JobId, str] = field(default_factory=dict)
    unheard: set[JobId] = field(default_factory=set)


class PbsCommands:
    """Runs qsub, qselect, qstat and qdel.

    Args:
        runner: Runs the commands.
        user: Whose jobs are looked for.
    """

    def __init__(self, runner: Runner, *, user: str) -> None:
        self._runner = runner
        self._user = user
        self._history = True
        self._singly = False
        self._names: dict[JobId, str] = {}

    @property
    def has_history(self) -> bool:
        """Whether PBS tells of jobs that have ended, as far as is known."""
        return self._history

    async def submit(self, script: str) -> JobId:
        """``qsub``, with the script on its standard input."""
        name = await submitted(self._runner, ("qsub",), script, id_of=_SUBMITTED, refusal=pbs_refusals.refusal)
        if "[" in name:
            try:
                await self.cancel(name)
                now = "and was deleted"
            except SchedulerError as error:  # what was taken is not submitted again, or there would be more of it
                now = f"which could not be deleted ({error}): run `qdel '{name}'` yourself"
            raise JobRefused(f"the pilot became a job array, {name}, {now}; remove -J from what pilots.script holds")
        return name if id_parts(name)[1] else await self._whole_id(name)

    async def _whole_id(self, number: JobId) -> JobId:
        """A job's id as all other commands print it, where a site's qsub prints the number alone."""
        printed = f"qsub printed {number}, an id without the server's name"
        try:
            job = (await self.jobs([number])).jobs.get(number)
        except SchedulerError as error:
            raise SubmissionUnknown(f"{printed}, and {error}; the job's name will tell") from error
        if job is None:
            raise SubmissionUnknown(f"{printed}, and qstat does not know that; the job's name will tell")
        return job.job

    async def jobs(self, asked: Collection[JobId]) -> Told:
        """What PBS knows of jobs.

        Raises:
            SchedulerError: It does not answer about any of them.
        """
        told = await self._told(sorted(asked))
        if told.unheard and len(told.unheard) == len(asked):
            raise SchedulerError(next(iter(told.silent.values())))
        return told

    async def own(self, prefix: str) -> dict[JobId, str]:
        """This user's jobs that wait or run and whose name begins so, and their names.

        Each of the user's other jobs is asked about once, and no more: names stay. If they are many, one listing tells
        which of them are none of hpcserve's, since some releases have to be asked about each by itself.

        Raises:
            SchedulerError: PBS does not answer, or not about a job that may be ours.
        """
        ids = await self._living()
        self._names = {name: self._names[name] for name in ids if name in self._names}
        new = [name for name in ids if name not in self._names]
        if len(new) > _FEW:
            strangers = await self._strangers()
            self._names |= {name: strangers[number] for name in new if (number := id_parts(name)[0]) in strangers}
        told = await self._told([name for name in new if name not in self._names])
        for name, job in told.jobs.items():
            if not job.name:
                raise SchedulerError(job.problem or f"qstat tells no name of job {name}; run it by hand and look")
            self._names[name] = job.name
        for why in told.silent.values():
            raise SchedulerError(why)
        return {name: called for name, called in self._names.items() if called.startswith(prefix)}

    async def cancel(self, job: JobId) -> None:
        """``qdel``: SIGTERM to all of the job's processes, the leading shell too, and SIGKILL after ``kill_delay``.

        Raises:
            Answered: PBS does not end this job.
            SchedulerError: It does not answer.
        """
        answer = await self._runner.run("qdel", str(job))
        if answer.exit_code != 0 and not pbs_refusals.is_error(answer, *_NOTHING_TO_DELETE):
            raise pbs_refusals.not_deleted(answer)

    async def estimates(self, jobs: Collection[JobId], now: datetime) -> dict[str, float]:
        """``qstat -T``: in so many seconds jobs will start, by the number in their ids.

        Raises:
            SchedulerError: It does not answer.
        """
        answer = await self._runner.run("qstat", "-T", *sorted(jobs)[:_MOST_IDS])
        if not answer.stdout.strip() and answer.exit_code != 0:
            raise pbs_refusals.no_answer(answer)
        return parse_estimates(answer.stdout, now)

    async def _living(self) -> list[JobId]:
        """``qselect``: the ids of this user's jobs that have not ended, but for those of job arrays."""
        answer = await self._runner.run("qselect", "-u", self._user)
        if answer.exit_code != 0:
            raise pbs_refusals.no_answer(answer)
        text = answer.stdout.decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        banner = list(itertools.takewhile(lambda line: not pbs_json.id_parts(line)[0], lines))
        ids = [JobId(line) for line in lines[len(banner) :]]
        strange = [name for name in ids if not pbs_json.id_parts(name)[0]]
        if strange or not text.endswith("\n" if lines else ""):
            raise _no_ids((strange or lines[-1:])[0])
        if banner and not await self._prints_always(banner):
            raise _no_ids(banner[0])
        return sorted(name for name in ids if "[" not in name)

    async def _prints_always(self, banner: list[str]) -> bool:
        """Whether such lines, but for the numbers in them, stand before a whole answer that can be told from them."""
        answer = await self._runner.run("qstat", "-B", *QSTAT[1:])
        try:
            pbs_json.decoded("qstat", answer.stdout)
        except SchedulerError:
            return False
        before, _ = pbs_json.parted(answer.stdout)
        lines = [line.strip() for line in before.decode(errors="replace").splitlines() if line.strip()]
        return [_DIGITS.sub("0", line) for line in lines] == [_DIGITS.sub("0", line) for line in banner]

    async def _strangers(self) -> dict[str, str]:
        """``qstat -u``: the names of this user's jobs that are none of hpcserve's, by the number in their ids.

        Of a longer name there are nine characters and ``*``, which is enough to tell. What is not listed may be ours.
        """
        answer = await self._runner.run("qstat", "-u", self._user)
        rows = map(_LISTED.match, answer.stdout.decode(errors="replace").splitlines())
        listed = {row[1]: row[2] for row in rows if row is not None}
        return {number: name for number, name in listed.items() if not name.startswith(OUR_JOBS)}

    async def _told(self, names: list[JobId]) -> Told:
        told = Told()
        while names:
            size = 1 if self._singly else _MOST_IDS
            await self._ask(names[:size], told)
            names = names[size:]
        return told

    async def _ask(self, names: list[JobId], told: Told) -> None:
        answer = await self._qstat(names)
        try:
            found = pbs_json.parse_jobs(answer.stdout) if answer.stdout.strip() else []
        except SchedulerError as error:
            if not pbs_json.parted(answer.stdout)[1]:
                raise pbs_refusals.no_answer(answer) if answer.exit_code else error from None
            if len(names) > 1:
                await self._each(names, told)
            else:
                _read_by_lines(answer, names[0], str(error), told)
            return
        missing = []
        for name in names:
            job = next((job for job in found if same_job(name, job.job)), None)
            if job is not None:
                told.jobs[name] = job
            elif _names(answer, name, _NOT_THERE):
                told.absent.add(name)
            else:
                missing.append(name)
        if len(names) > 1:
            # The first one is there, and others are that were asked for and are not named.
            self._singly = self._singly or bool(missing and told.jobs)
            await self._each(missing, told)
        elif missing and (answer.exit_code != 0 or found or not answer.stdout.strip()):
            told.silent[missing[0]] = f"qstat tells nothing of job {missing[0]}: {_why_nothing(answer)}"
            told.unheard.add(missing[0])
        else:
            told.absent.update(missing)

    async def _each(self, names: list[JobId], told: Told) -> None:
        for name in names:
            await self._ask([name], told)

    async def _qstat(self, names: Iterable[JobId]) -> Answer:
        """The answer, with or without what has ended, as PBS has it or not.

        Raises:
            SchedulerError: The server gave none.
        """
        ids = (*names,)
        answer = await self._runner.run(*QSTAT, *(("-x",) if self._history else ()), *ids)
        if self._history and _NO_HISTORY.search(answer.stderr):
            self._history = False
            answer = await self._runner.run(*QSTAT, *ids)
        elif not self._history and _FINISHED in answer.stderr:
            past = await self._runner.run(*QSTAT, "-x", *ids)
            self._history = not _NO_HISTORY.search(past.stderr)
            answer = past if self._history else answer
        is_named = any(text in answer.stderr for text in _NOT_THERE)
        if answer.exit_code != 0 and not answer.stdout.strip() and not is_named:
            raise pbs_refusals.no_answer(answer)
        if is_named and not pbs_json.parted(answer.stdout)[1]:
            return replace(answer, stdout=b"")  # what others print is no answer, and its errors are one
        return answer


def _no_ids(printed: str) -> SchedulerError:
    return SchedulerError(f"qselect printed {printed[:100]!r}, no job's id; run it by hand and look")


def _why_nothing(answer: Answer) -> str:
    """Of an answer that lacks what was asked for."""
    if answer.exit_code:
        return str(pbs_refusals.no_answer(answer))
    if answer.stderr:
        return f"it says: {' '.join(answer.stderr.split())[:_SHOWN_CHARACTERS]}"
    if answer.stdout.strip():
        return "it tells of other jobs alone; run it by hand and look"
    return "it printed nothing, and says of no error; run it by hand and look"


def _read_by_lines(answer: Answer, name: JobId, why: str, told: Told) -> None:
    """What an answer about one job says that is no JSON; PBS has answered, if it is whole."""
    job = pbs_json.parse_lines(answer.stdout)
    if job is not None and same_job(name, job.job):
        told.jobs[name] = job
        return
    told.silent[name] = why
    if not pbs_json.is_whole(answer.stdout):
        told.unheard.add(name)


def _names(answer: Answer, name: JobId, texts: Iterable[str]) -> bool:
    """Whether a line of its errors says one of these about a job."""
    return any(
        same_job(word, name)
        for line in answer.stderr.splitlines()
        if any(text in line for text in texts)
        for word in line.split()
    )
