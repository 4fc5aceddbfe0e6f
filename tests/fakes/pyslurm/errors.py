"""pyslurm's errors."""

from __future__ import annotations


class PyslurmError(Exception):
    pass


class RPCError(PyslurmError):
    def __init__(self, errno: int, msg: str) -> None:
        super().__init__(msg)
        self.errno = errno
        self.msg = msg
