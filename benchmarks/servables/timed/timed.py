"""Writes down when each run begins and ends, and in which job: what has run too long, or twice, is seen."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from hpcserve import Tensor, method


class Timed:
    """Gives ``n`` back after ``parameters["sleep_s"]``; its notes go to the file ``parameters["log"]``."""

    @method(inputs={"n": Tensor("int64")}, outputs={"n": Tensor("int64")})
    def again(self, n: np.ndarray[Any, Any], *, parameters: dict[str, Any]) -> np.ndarray[Any, Any]:
        """One run."""
        self._note("began", int(n), parameters["log"])
        time.sleep(parameters["sleep_s"])
        self._note("ended", int(n), parameters["log"])
        return n

    def _note(self, what: str, n: int, path: str) -> None:
        with open(path, "a") as log:
            log.write(f"{what} {n} {os.environ['SLURM_JOB_ID']} {time.time():.6f}\n")
