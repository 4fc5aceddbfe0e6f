"""Asks Slurm by one of the two transports, where it is started: one call a line on standard input, one answer a line.

A call is a JSON list, the method and its arguments; an answer is an object with ``returned``, or with ``error``, the
class, and ``message``.
"""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec

from hpcserve.cluster.runner import Runner
from hpcserve.cluster.slurm_commands import CommandsTransport
from hpcserve.cluster.slurm_jobs import Transport
from hpcserve.cluster.slurm_pyslurm import PyslurmTransport
from hpcserve.errors import SchedulerError

TIMEOUT_S = 20.0


def transport(name: str) -> Transport:
    if name == "pyslurm":
        return PyslurmTransport(timeout_s=TIMEOUT_S)
    return CommandsTransport(Runner(timeout_s=TIMEOUT_S))


async def answers() -> None:
    asked = transport(sys.argv[1])
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            method, *arguments = json.loads(line)
            try:
                answer = {"returned": await getattr(asked, method)(*arguments)}
            except SchedulerError as error:
                answer = {"error": type(error).__name__, "message": error.message}
            print(msgspec.json.encode(answer).decode(), flush=True)
    finally:
        await asked.close()


if __name__ == "__main__":
    asyncio.run(answers())
