"""Prints as much as it is told to."""

import sys

import numpy as np

from hpcserve import Tensor, method

LINE = b"x" * 1023 + b"\n"
BLOCK = LINE * 1024


@method(inputs={"mib": Tensor("int64")}, outputs={"mib": Tensor("int64")})
def shout(mib):
    for _ in range(int(mib)):
        sys.stdout.buffer.write(BLOCK)
    sys.stdout.flush()
    return np.int64(mib)
