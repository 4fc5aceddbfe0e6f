"""One job script handed in by a command, and what its answer says, whichever batch scheduler's it is.

What is the same of all of them: an answer without a job's id is a refusal, in the scheduler's own words; an id with an
exit code, no id without one, and no answer at all leave open whether the job was taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hpcserve.cluster.runner import Answer, Runner, Unanswered, failure
from hpcserve.cluster.seam import JobId
from hpcserve.errors import SchedulerError, SubmissionUnknown

_NAME_WILL_TELL = "its name will tell"
AGAIN = "it will be submitted again"
_LOOK = "look at the script with `hpcserve site render`"
_SHOWN_CHARACTERS = 200


async def submitted(
    runner: Runner, argv: Sequence[str], script: str, *, id_of: re.Pattern[str], refusal: Callable[[Answer], Exception]
) -> JobId:
    """The id of the job that a script, on the standard input of a command, becomes.

    Args:
        runner: Runs the command.
        argv: The command.
        script: The job script.
        id_of: The one line that tells the id, which is its first group: a site's wrapper or hook may print others.
        refusal: The error for an answer without one.

    Raises:
        SubmissionUnknown: It may have been taken.
        SchedulerError: It was not; see ``refusal``.
    """
    try:
        answer = await runner.run(*argv, stdin=script.encode(), submits=True)
    except Unanswered as error:
        raise SubmissionUnknown(f"{error}; the job may have been taken: {_NAME_WILL_TELL}") from error
    name = _printed_id(answer, id_of)
    if answer.exit_code != 0 and name is None:
        raise refusal(answer)
    if answer.exit_code != 0:
        printed = f"printed the id of a job before, {name}"
        raise SubmissionUnknown(f"{failure(answer)}, and {printed}; if it is there, {_NAME_WILL_TELL}")
    if name is None:
        said = " ".join(answer.stdout.decode(errors="replace").split())[:_SHOWN_CHARACTERS]
        raise SubmissionUnknown(f"{argv[0]} took the job, it seems, but printed no id: {said!r}; {_NAME_WILL_TELL}")
    return name


def _printed_id(answer: Answer, id_of: re.Pattern[str]) -> JobId | None:
    lines = [line.strip() for line in answer.stdout.decode(errors="replace").splitlines()]
    ids = [found[1] for found in map(id_of.fullmatch, lines) if found is not None]
    return JobId(ids[0]) if len(ids) == 1 else None


def in_one_line(answer: Answer, prefix: str) -> str:
    """What a command says of its failure, less the ``prefix`` that stands before each line."""
    said = answer.stderr or answer.stdout.decode(errors="replace")
    return " ".join(said.replace(prefix, "").split())


def without_a_word(answer: Answer) -> SchedulerError:
    """The error for a submission that failed and says nothing."""
    return SubmissionUnknown(
        f"{answer.argv[0]} ended with exit code {answer.exit_code} and without a word; whether the job was taken, "
        f"{_NAME_WILL_TELL}"
    )


def advice(line: str, what_to_do: Sequence[tuple[str, str]]) -> str:
    """What to do about a refusal in these words: that of the first text in lower case that stands in it."""
    said = line.lower()
    return next((what for text, what in what_to_do if text in said), _LOOK)
