"""Each file of tests/data/pyslurm-* is answered by the stand-in for pyslurm, and read by the helper as what happened.

All files are looked for on the disk, and one that holds nothing that hpcserve asks for fails.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import SlurmJob
from hpcserve.cluster.slurm_pyslurm import PyslurmTransport, usable
from hpcserve.cluster.slurm_states import meaning
from hpcserve.errors import JobRefused, SchedulerError

TESTS = Path(__file__).parents[1]
RECORDED = sorted((TESTS / "data").glob("pyslurm-*/*.json"))
PATIENCE_S = 60.0
# As by errno: the way to slurmctld, or its own troubles. All other recorded refusals are for ever.
NOT_FOR_EVER = {1800, 2019}
PRINTED = re.compile(r"\['RPCError', '([^']+)', (\d+)\]|^RPCError (.+?) (\d+) [\d.]+$", re.MULTILINE)
FATAL = re.compile(r"fatal: (.+)")

Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Says what the stand-in answers from the next call on."""
    scene = tmp_path / "scene.json"
    monkeypatch.setenv("PYSLURM_STANDIN", str(scene))
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "fakes"))
    monkeypatch.delenv("SLURM_CONF", raising=False)

    def write(**answers: Any) -> None:
        scene.write_text(json.dumps(answers))

    write()
    return write


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_each_recorded_answer_of_pyslurm_is_read_as_what_happened(path: Path, play: Play) -> None:
    async def scenario() -> list[str]:
        transport = PyslurmTransport(timeout_s=PATIENCE_S)
        try:
            answers = json.loads(path.read_text()).items()
            return [call for call, answer in answers if await is_read(transport, call, answer, play)]
        finally:
            await transport.close()

    assert asyncio.run(scenario())


async def is_read(transport: PyslurmTransport, call: str, answer: Any, play: Play) -> bool:
    """Whether hpcserve asks for the like, and then it was read as what happened."""
    match answer:
        case {"code": _, "stderr": told} if found := FATAL.search(told):
            play(init={"fatal": found[1]})
            assert (await usable(PATIENCE_S)).endswith(f"fatal: {found[1]}"), call
        case {"code": _, "stdout": printed} if PRINTED.search(printed):
            for one, number, other, another in PRINTED.findall(printed):
                await fails(
                    transport, {"exc_type": "RPCError", "str": one or other, "errno": int(number or another)}, play
                )
        case {"exc_type": _} if "submit" in call:
            play(submit=answer)
            with pytest.raises(SchedulerError) as caught:
                await transport.submit("#!/bin/sh\n")
            assert type(caught.value) is (SchedulerError if answer.get("errno") in NOT_FOR_EVER else JobRefused), call
        case {"returned": number, "type": "int"} if "submit" in call:
            play(submit=answer)
            assert await transport.submit("#!/bin/sh\n") == JobId(number), call
        case {"returned": "None"} if call.startswith(("cancel", "up_cancel", "array_cancel")):
            play(cancel=answer)
            await transport.cancel(JobId("7"))
        case {"exc_type": "pyslurm.core.error.RPCError"} if call.startswith(("down_", "dbd_down", "cancel_other")):
            await fails(transport, answer, play)
        case {"show": {"state": state, "state_reason": _}}:
            play(jobs=[answer])
            (job,) = await transport.queue()
            is_known(job, state, call)
        case {"show": {"state": state}}:
            play(past={"2": answer})
            (job,) = await transport.history([JobId("2")])
            is_known(job, state, call)
        case [_, [_, {"exc_type": _} as gone], *_]:
            await fails(transport, gone, play)
        case _:
            return False
    return True


async def fails(transport: PyslurmTransport, answer: dict[str, Any], play: Play) -> None:
    play(jobs=answer)
    with pytest.raises(SchedulerError, match=re.escape(answer["str"])):
        await transport.queue()


def is_known(job: SlurmJob, state: str, call: str) -> None:
    assert job.state == state, call
    assert meaning(job.state, job.flags).phase != "unknown", call
